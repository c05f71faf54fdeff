"""4-bit weights by llm-compressor in an environment of its own: a stand-in always, the real one where there is one.

``SFT_TEST_LLMCOMPRESSOR_PYTHON`` names an interpreter that has it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.checkpoint_files import read_tensors
from sft.adapters.export import gptq_worker, int4
from sft.adapters.export.int4 import Calibration
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.errors import ConfigError, StageError
from tests.support import llmcompressor

REAL = os.environ.get("SFT_TEST_LLMCOMPRESSOR_PYTHON", "")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of an environment with a stand-in for llm-compressor."""
    return llmcompressor.environment(tmp_path_factory.mktemp("llmc"))


@pytest.fixture
def tokenized(tmp_path: Path) -> Path:
    """Twenty tokenized training samples, of 10 to 29 tokens."""
    file = tmp_path / "data.jsonl"
    rows = [{"input_ids": [3 + (i * j) % 300 for j in range(10 + i)], "labels": [], "len": 10 + i} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def export(model: Path, tokenized: Path, folder: Path, python: str | Path, **how: Any) -> tuple[Path, dict[str, Any]]:
    out = folder / "out"
    out.mkdir()
    settings: dict[str, Any] = {"trust_remote_code": False, "leave_out": ["manifest.json"], "held_out": [], **how}
    calibration = Calibration(file=tokenized, num_samples=8, seed=7)
    made = int4.export(model, out, folder / "work", python=str(python), calibration=calibration, **settings)
    return out, made


def is_written(model: Path, out: Path, made: dict[str, Any]) -> None:
    """Raise if the folder is not the model with 4-bit weights that transformers loads."""
    import torch
    from transformers import AutoModelForCausalLM

    assert made["group_size"] == 32  # of widths 32 and 64
    assert made["num_layers"] == 14  # 2 blocks of 7
    assert 0 < made["largest_weight_difference"] < 0.2
    dtypes = {name: tensor.dtype for name, tensor in read_tensors(out).items()}
    assert dtypes["model.layers.0.mlp.up_proj.weight_packed"] == "I32"
    assert dtypes["model.embed_tokens.weight"] == "F32"
    assert "manifest.json" not in {path.name for path in out.iterdir()}
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 32, True)
    original = AutoModelForCausalLM.from_pretrained(model).eval()
    read = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.arange(3, 23)[None]
    with torch.inference_mode():
        before, after = (one(input_ids=ids).logits.float().log_softmax(-1) for one in (original, read))
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    assert 0 < kl < 0.1


@pytest.mark.long
@pytest.mark.slow
def test_transformers_loads_what_another_environment_wrote(
    stand_in: Path, tiny_model: ModelArtifact, tiny_data: DatasetArtifact, tokenized: Path, tmp_path: Path
) -> None:
    held_out = [{"name": "holdout", "file": str(tiny_data.eval_file)}]
    told: list[str] = []
    out, made = export(tiny_model.model_dir, tokenized, tmp_path, stand_in, held_out=held_out, tell=told.append)
    is_written(tiny_model.model_dir, out, made)
    assert made["prompts"]["held_out"] == {"holdout": 20}
    assert made["versions"]["llmcompressor"] == llmcompressor.VERSION
    known = made["calibration"]
    assert (known["num_samples"], known["of"], known["seed"]) == (8, 20, 7)
    assert told
    assert all(text.startswith("GPTQ with 8 samples, ") for text in told)
    asked = json.loads((tmp_path / "work" / "gptq" / "asked.json").read_text())
    rows = [json.loads(line)["input_ids"] for line in tokenized.read_text().splitlines()]
    assert len(asked["input_ids"]) == 8
    assert all(ids in rows for ids in asked["input_ids"])  # training samples, whole
    assert asked["recipe"]["ignore"] == ["lm_head"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_llm_compressor_itself_does_the_same(tiny_model: ModelArtifact, tokenized: Path, tmp_path: Path) -> None:
    if not REAL:
        pytest.skip("SFT_TEST_LLMCOMPRESSOR_PYTHON names no interpreter")
    assert int4.check("auto", REAL, 8)
    out, made = export(tiny_model.model_dir, tokenized, tmp_path, REAL)
    is_written(tiny_model.model_dir, out, made)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "llm-compressor failed: OutOfMemoryError: no room"),
        ("changes", "model.norm.weight was changed by llm-compressor, which was not asked to"),
        ("reverses", r"model.layers.0.mlp.down_proj.weight is not what was quantised: it differs by 1\.\d"),
        ("skips", "llm-compressor packed other layers than the linear ones: model.layers.0.mlp.up_proj"),
        ("dies", r"llm-compressor was killed by SIGKILL \(perhaps out of memory\); its last lines"),
    ],
)
def test_what_goes_wrong_there_is_said_in_a_sentence(
    fault: str,
    message: str,
    stand_in: Path,
    tiny_model: ModelArtifact,
    tokenized: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    with pytest.raises(StageError, match=message) as error:
        export(tiny_model.model_dir, tokenized, tmp_path, stand_in)
    if fault in ("raises", "dies"):
        assert "fewer --calibration-samples" in str(error.value.fix)


def test_the_environment_is_asked_before_anything_is_written(stand_in: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    assert int4.check("auto", str(stand_in), 8) == llmcompressor.VERSION
    for python, rule in {
        None: r"--python: is needed: --to int4 asks llm-compressor.*--python llmc/bin/python",
        sys.executable: rf"--python={sys.executable}: its environment has no llm-compressor",
        str(tmp_path / "none"): r"can't be run \(No such file or directory",
        "/bin/false": "is no interpreter of Python 3",
    }.items():
        with pytest.raises(ConfigError, match=rule):
            int4.check("auto", python, 8)
    with pytest.raises(ConfigError, match="--calibration-samples=0: must be at least 1"):
        int4.check("auto", str(stand_in), 0)
    with pytest.raises(ConfigError, match="--type=f16: does nothing: --to int4 says the type"):
        int4.check("f16", str(stand_in), 8)


def test_the_worker_gets_nothing_of_our_environment_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = int4.command("/env/bin/python", tmp_path)
    assert command[:5] == [sys.executable, "-P", "-m", "sft.adapters.os.guard", "/env/bin/python"]
    assert command[5:] == ["-I", gptq_worker.__file__, str(tmp_path)]


@pytest.mark.parametrize(
    ("widths", "group"), [([4096, 11008], 128), ([576, 1536], 64), ([96, 256], 32), ([128], 128), ([32, 64], 32)]
)
def test_the_group_is_the_largest_that_divides_every_width(widths: list[int], group: int) -> None:
    assert gptq_worker.group_size(widths) == group


def test_widths_that_no_group_divides_are_refused() -> None:
    with pytest.raises(gptq_worker.RefusedError, match="groups of 32 or more, which don't divide 24, 40"):
        gptq_worker.group_size([40, 64, 24])
    with pytest.raises(gptq_worker.RefusedError, match="no linear layers"):
        gptq_worker.group_size([])


@pytest.mark.long
@pytest.mark.slow
def test_a_refusal_of_the_worker_is_told_as_it_is(
    stand_in: Path, tiny_model: ModelArtifact, tokenized: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny_model.model_dir)
    config.hidden_size = 24
    narrow = tmp_path / "narrow"
    AutoModelForCausalLM.from_config(config).save_pretrained(narrow)
    AutoTokenizer.from_pretrained(tiny_model.model_dir).save_pretrained(narrow)
    with pytest.raises(StageError, match="--to int4: 4-bit weights share a scale in groups of 32 or more") as error:
        export(narrow, tokenized, tmp_path, stand_in)
    assert "--to int8" in str(error.value.fix)


def test_samples_are_drawn_by_their_seed_and_cut(tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "MOST_TOKENS", 15)
    draws = [Calibration(file=tokenized, num_samples=8, seed=seed).draw() for seed in (1, 1, 2)]
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0]
    samples, known = draws[0]
    assert max(map(len, samples)) == 15
    assert known["num_tokens"] == sum(map(len, samples))
    assert Calibration(file=tokenized, num_samples=99, seed=1).draw()[1]["num_samples"] == 20


def test_packed_numbers_are_nibbles_less_eight_times_their_scale() -> None:
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    from sft.adapters.export.int4_reader import unpack

    numbers = torch.arange(-8, 8, dtype=torch.int8).repeat(2, 2)  # 2 rows of 32
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25]])
    first = sum((int(n) + 8) << (4 * i) for i, n in enumerate(numbers[0, :8]))  # the format, by hand
    packed = pack_to_int32(numbers, 4)
    assert int(packed[0, 0]) & 0xFFFFFFFF == first
    assert torch.equal(unpack(packed, scale, 32), numbers.float() * scale.repeat_interleave(16, dim=1))
