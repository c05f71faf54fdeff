"""Saved weights: those of the model, under transformers' names, each once, in the type that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import checkpoint_writer
from sft.adapters.checkpoint_files import INDEX, read_tensors
from sft.adapters.checkpoint_writer import save_weights
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def made(family: str = "llama", **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **settings))


def gathered(model: Any) -> dict[str, Any]:
    """A state as FSDP gathers it: tied weights are copies."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("mixtral", {"num_local_experts": 4}),  # its experts are one tensor in memory and many in the file
    ],
)
def test_the_file_holds_what_transformers_would_save(
    family: str, settings: dict[str, Any], loaded: bool, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = made(family, **settings)
    model.save_pretrained(tmp_path / "base")
    if loaded:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    save_weights(model, gathered(model), tmp_path / "out", base=tmp_path / "base", save_dtype="auto")
    expected, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "out"))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in expected.items())
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert again.dtype is torch.float32


def test_large_models_are_shards_with_an_index_that_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(checkpoint_writer, "_SHARD_BYTES", 2000)
    model = made(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    save_weights(model, gathered(model), tmp_path / "out", base=tmp_path / "base", save_dtype="bf16")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "out").values()} == {"BF16"}
    size = sum(tensor.size * 2 for tensor in read_tensors(tmp_path / "out").values())
    assert json.loads((tmp_path / "out" / INDEX).read_text())["metadata"]["total_size"] == size
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())


def test_values_beyond_the_range_of_fp16_are_refused(tmp_path: Path) -> None:
    model = made(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    state = gathered(model)
    state["model.norm.weight"][0] = 70_000.0
    with pytest.raises(StageError, match=r"model.norm.weight holds values beyond the range of fp16"):
        save_weights(model, state, tmp_path / "out", base=tmp_path / "base", save_dtype="fp16")


def test_tied_weights_that_were_trained_apart_are_refused(tmp_path: Path) -> None:
    model = made(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    state = gathered(model)
    state["lm_head.weight"] += 1
    with pytest.raises(StageError, match=r"lm_head.weight and model.embed_tokens.weight are tied"):
        save_weights(model, state, tmp_path / "out", base=tmp_path / "base", save_dtype="auto")
