"""GGUF files of fewer bits, made by a person's own ``llama-quantize``, and read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sft.adapters.export import gguf, llama_quantize
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.errors import ConfigError, StageError
from tests.support import llama_quantize as stand_in


def export(model: Path, folder: Path, program: Path | str | None, kind: str = "q4_k_m", **how: object) -> gguf.GgufFile:
    (folder / "out").mkdir()
    given = None if program is None else str(program)
    return gguf.export(model, folder / "out", folder / "work", name="tiny", kind=kind, program=given, **how)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.slow
def test_what_the_program_writes_is_read_back(
    tiny_model: ModelArtifact, tiny_data: DatasetArtifact, tmp_path: Path
) -> None:
    held_out = [{"name": "holdout", "file": str(tiny_data.eval_file)}]
    told: list[str] = []
    made = export(tiny_model.model_dir, tmp_path, stand_in.program(tmp_path), held_out=held_out, tell=told.append)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-Q4_K_M.gguf"]
    assert made.kind == "q4_k_m"
    assert 0.001 < made.details["largest_weight_difference"] < 0.05  # steps of 1/31 of the largest of 32
    assert made.details["prompts"]["held_out"] == {"holdout": 20}
    assert made.details["made_of"] == "f32"
    assert made.details["llama_quantize"]["build"] == "4242 (c0ffee)"
    assert {*made.details["types"].values()} == {"Q5_0"}
    assert "as 256 does not divide their rows of 32 and 64 values" in " ".join(made.notes)
    assert all(text.startswith("llama-quantize q4_k_m, ") for text in told)
    assert not (tmp_path / "work" / "wider.gguf").exists()


@pytest.mark.long
@pytest.mark.slow
def test_another_type_than_was_asked_for_is_an_error(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    program = stand_in.program(tmp_path)
    program.write_text(program.read_text().replace('"MOSTLY_" + kind', '"MOSTLY_Q2_K"'))
    with pytest.raises(StageError, match="the file says that it is MOSTLY_Q2_K, and q4_k_m was asked for"):
        export(tiny_model.model_dir, tmp_path, program, held_out=[])


@pytest.mark.slow
def test_why_the_program_failed_is_said(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    program = stand_in.program(tmp_path, fails=True)
    with pytest.raises(StageError, match=r"ended with status 1; its last lines:\n[\s\S]*no such tensor") as error:
        export(tiny_model.model_dir, tmp_path, program, held_out=[])
    assert "--type q8_0 is written without it" in str(error.value.fix)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["q4_k_m", "q6_k", "q4_0"])
def test_llama_cpps_own_program_does_the_same(kind: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    if shutil.which(llama_quantize.PROGRAM) is None:
        pytest.skip(f"no {llama_quantize.PROGRAM} in PATH")
    made = export(tiny_model.model_dir, tmp_path, None, kind, held_out=[])
    assert made.kind == kind
    assert 0 < made.details["largest_weight_difference"] < 0.1
    assert made.details["types"].keys() >= {"blk.0.attn_q.weight", "token_embd.weight"}


def test_a_missing_program_is_named_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--type=q4_k_m: is made by llama\.cpp's program llama-quantize") as error:
        gguf.check("q4_k_m")
    assert "then --llama-quantize PATH" in str(error.value)
    program = stand_in.program(tmp_path)
    gguf.check("q4_k_m")  # found in PATH
    with pytest.raises(ConfigError, match=r"--llama-quantize=/none: is not there"):
        gguf.check("q4_k_m", "/none")
    program.chmod(0o644)
    with pytest.raises(ConfigError, match="is no program that may be run"):
        gguf.check("q4_k_m", str(program))
    with pytest.raises(ConfigError, match="does nothing: --type f16 is written without it"):
        gguf.check("f16", str(program))


def test_types_are_those_that_gguf_names_and_reads_back() -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, LlamaFileType, dequantize, quant_shape_to_byte_shape

    for kind in llama_quantize.TYPES:
        assert LlamaFileType[f"MOSTLY_{kind.upper()}"]
        block = GGMLQuantizationType["_".join(kind.upper().split("_")[:2])]
        row = np.zeros(quant_shape_to_byte_shape((1, 256), block), dtype=np.uint8)
        assert dequantize(row, block).shape == (1, 256)


def test_types_of_matrices_are_told_by_number_and_role() -> None:
    types = {f"blk.{i}.attn_q.weight": "Q5_0" for i in range(3)}
    types |= {"blk.0.ffn_down.weight": "Q6_K", "token_embd.weight": "Q8_0", "blk.0.attn_k.weight": "Q5_0"}
    assert llama_quantize.type_line(types) == "4 Q5_0 (attn_k, attn_q), 1 Q6_K (ffn_down), 1 Q8_0 (token_embd)"


def test_rows_that_blocks_divide_need_no_words() -> None:
    assert llama_quantize.narrow_note("q4_k_m", {"a": 256, "b": 2048}) is None
    assert llama_quantize.narrow_note("q4_0", {"a": 576}) is None
    note = llama_quantize.narrow_note("q6_k", {"a": 256, "b": 576, "c": 576})
    assert note == "llama.cpp takes wider types for 2 of 3 matrices, as 256 does not divide their rows of 576 values"
