"""GGUF files of tiny models, written and read back; SmolLM2, a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sft.adapters.export import gguf
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.errors import ConfigError, StageError
from tests.support.architectures import SHAPE

pytestmark = pytest.mark.slow


def folders(root: Path) -> tuple[Path, Path]:
    out = root / "out"
    out.mkdir()
    return out, root / "work"


def with_tokenizer(source: Path, folder: Path, architecture: str, **settings: object) -> Path:
    """A random model of an architecture, with the tokenizer and template of another one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    vocabulary = len(AutoTokenizer.from_pretrained(source)) + 3
    config = AutoConfig.for_model(architecture, **{**SHAPE, "vocab_size": vocabulary, **settings})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder)
    return folder


def logits(folder: Path) -> object:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 23)[None]).logits


@pytest.mark.long
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 128}),
    ],
)
def test_what_is_read_back_computes_the_same(
    architecture: str,
    settings: dict[str, object],
    tiny_model: ModelArtifact,
    tiny_data: DatasetArtifact,
    tmp_path: Path,
) -> None:
    import torch

    model = with_tokenizer(tiny_model.model_dir, tmp_path / "model", architecture, **settings)
    out, work = folders(tmp_path)
    held_out = [{"name": "holdout", "file": str(tiny_data.eval_file)}]
    made = gguf.export(model, out, work, name="a model / 1", kind="auto", held_out=held_out)
    assert made.file == out / "a-model-1-F32.gguf"
    assert [path.name for path in out.iterdir()] == [made.file.name]
    assert made.details["largest_weight_difference"] == 0.0
    assert made.details["prompts"]["held_out"] == {"holdout": 20}
    torch.testing.assert_close(logits(made.model_dir), logits(model), rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("said", [{"do_sample": True, "temperature": 3.0, "top_k": 0}, {"temperature": 0.6}, None])
def test_what_is_read_back_writes_as_the_models_settings_say(
    said: dict[str, object] | None, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = with_tokenizer(tiny_model.model_dir, tmp_path / "model", "llama")
    (model / "generation_config.json").unlink(missing_ok=True)
    if said is not None:
        own = {**said, "eos_token_id": 1, "repetition_penalty": 1.0}
        (model / "generation_config.json").write_text(json.dumps(own))
    out, work = folders(tmp_path)
    made = gguf.export(model, out, work, name="tiny", kind="auto", held_out=[])
    read = json.loads((made.model_dir / "generation_config.json").read_text())
    ends = AutoTokenizer.from_pretrained(model)("<|im_end|>", add_special_tokens=False)["input_ids"]
    assert {*ends} <= {*read.pop("eos_token_id")}
    read.pop("pad_token_id")
    assert read == ({**said, "repetition_penalty": 1.0} if said is not None else {})
    sampled = "the file doesn't carry generation_config.json's do_sample=True, temperature=3.0, top_k=0"
    notes = [f"{sampled}: tell what runs it"] if said and "do_sample" in said else []
    assert gguf.not_carried(model) == notes


@pytest.mark.long
def test_a_head_of_its_own_is_written_though_the_config_ties_it(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    save_file({**weights, "lm_head.weight": 2 * weights["model.embed_tokens.weight"]}, model / "model.safetensors")
    out, work = folders(tmp_path)
    made = gguf.export(model, out, work, name="own head", kind="f32", held_out=[])
    read = load_file(made.model_dir / "model.safetensors")
    assert (read["lm_head.weight"] == 2 * weights["model.embed_tokens.weight"]).all()


@pytest.mark.long
def test_fewer_bits_differ_by_as_much_as_their_steps(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    out, work = folders(tmp_path)
    made = gguf.export(tiny_model.model_dir, out, work, name="tiny", kind="q8_0", held_out=[])
    assert made.file.name == "tiny-Q8_0.gguf"
    assert 0 < made.details["largest_weight_difference"] < 0.01  # steps of 1/127 of the largest of 32


@pytest.mark.long
def test_rows_that_no_block_divides_stay_wider_and_that_is_said(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    settings = {"hidden_size": 24, "head_dim": 6}
    model = with_tokenizer(tiny_model.model_dir, tmp_path / "model", "llama", **settings)
    out, work = folders(tmp_path)
    made = gguf.export(model, out, work, name="odd", kind="q8_0", held_out=[])
    assert "kept in f16, as their rows are not divisible into blocks of q8_0" in " ".join(made.notes)


@pytest.mark.long
def test_values_beyond_f16_are_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = with_tokenizer(tiny_model.model_dir, tmp_path / "model", "llama")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out, work = folders(tmp_path)
    with pytest.raises(StageError, match=r"up_proj.weight holds values beyond the range of f16") as error:
        gguf.export(model, out, work, name="large", kind="f16", held_out=[])
    assert error.value.fix == "--type bf16"


@pytest.mark.long
def test_a_model_without_a_template_or_an_end_is_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    model = with_tokenizer(tiny_model.model_dir, tmp_path / "model", "llama")
    (model / "chat_template.jinja").unlink()
    out, work = folders(tmp_path)
    with pytest.raises(StageError, match="the model has no chat template"):
        gguf.export(model, out, work, name="mute", kind="f16", held_out=[])


def test_types_are_known_before_anything_is_written() -> None:
    gguf.check("q8_0")
    with pytest.raises(ConfigError, match=r"--type=int3: must be one of auto, f32, f16, bf16, q8_0, or of those that"):
        gguf.check("int3")
    with pytest.raises(ConfigError, match="with an importance matrix is not"):
        gguf.check("iq2_xxs")


@pytest.mark.exhaustive
def test_smollm2_comes_back_bit_for_bit(smollm2: Path, tmp_path: Path) -> None:
    out, work = folders(tmp_path)
    rows = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "12345 + 678 = ?"}, {"role": "assistant", "content": "13023"}]
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    held_out = [{"name": "holdout", "file": str(rows)}]
    made = gguf.export(smollm2, out, work, name="SmolLM2", kind="auto", held_out=held_out)
    assert made.kind == "bf16"
    assert made.details["pre"] == "smollm"
    assert made.details["largest_weight_difference"] == 0.0
