"""A saved model is what its base was: type of each weight, tied weights once, a config that says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.checkpoint_files import read_tensors, stored_dtype
from sft.artifacts import CheckpointArtifact
from sft.config.schema import LauncherConfig, LoraConfig, SaveDtype
from sft.progress import Progress
from sft.stages.train import train
from sft.stages.training_task import TrainInputs
from tests.support.training import changed

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def based_on(dtype: str, inputs: TrainInputs, folder: Path) -> TrainInputs:
    """The inputs with their base model stored in another type."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(inputs.model.model_dir, folder)
    base = AutoModelForCausalLM.from_pretrained(folder).to(getattr(torch, dtype))
    base.save_pretrained(folder)
    return replace(inputs, model=replace(inputs.model, root=folder))


def trained(inputs: TrainInputs, out: Path, **settings: Any) -> CheckpointArtifact:
    out.mkdir()
    return train(
        changed(num_epochs=1, launcher=LauncherConfig(procs_per_worker=1), **settings),
        inputs,
        out,
        Progress(quiet=True),
    )


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.long
@pytest.mark.parametrize(
    ("stored", "asked", "saved"),
    [
        ("bfloat16", SaveDtype.auto, "bfloat16"),
        pytest.param("float32", SaveDtype.auto, "float32", marks=pytest.mark.exhaustive),
        pytest.param("float16", SaveDtype.auto, "float16", marks=pytest.mark.exhaustive),
        pytest.param("bfloat16", SaveDtype.fp32, "float32", marks=pytest.mark.exhaustive),
        pytest.param("float32", SaveDtype.fp16, "float16", marks=pytest.mark.exhaustive),
    ],
)
def test_a_model_is_saved_in_the_asked_type_with_tied_weights_once_and_says_so(
    stored: str, asked: SaveDtype, saved: str, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    inputs = based_on(stored, train_inputs, tmp_path / "base")
    checkpoint = trained(inputs, tmp_path / "out", save_dtype=asked)
    before, after = read_tensors(inputs.model.model_dir), read_tensors(checkpoint.model_dir)
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert "lm_head.weight" not in after
    assert stored_dtype(checkpoint.model_dir) == saved
    assert len({tensor.dtype for tensor in after.values()}) == 1
    assert config_of(checkpoint.model_dir)["dtype"] == saved


@pytest.mark.exhaustive
def test_each_weight_keeps_the_type_that_it_has_in_the_base_model(train_inputs: TrainInputs, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    inputs = based_on("bfloat16", train_inputs, tmp_path / "base")
    file = inputs.model.model_dir / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.float32)
    save_file(weights, file, metadata={"format": "pt"})
    after = read_tensors(trained(inputs, tmp_path / "out").model_dir)
    assert {name for name, tensor in after.items() if tensor.dtype == "F32"} == {"model.norm.weight"}


@pytest.mark.exhaustive
def test_a_merged_model_is_saved_as_its_base_was(train_inputs: TrainInputs, tmp_path: Path) -> None:
    inputs = based_on("bfloat16", train_inputs, tmp_path / "base")
    checkpoint = trained(inputs, tmp_path / "out", lora=LoraConfig(rank=4, alpha=8))
    before, after = read_tensors(inputs.model.model_dir), read_tensors(checkpoint.model_dir)
    assert after == before
    assert config_of(checkpoint.model_dir)["dtype"] == "bfloat16"


@pytest.mark.exhaustive
def test_the_saved_model_is_the_trained_one_rounded_once(train_inputs: TrainInputs, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    inputs = based_on("bfloat16", train_inputs, tmp_path / "base")
    files = {
        asked: trained(inputs, tmp_path / asked.value, save_dtype=asked).model_dir / "model.safetensors"
        for asked in (SaveDtype.fp32, SaveDtype.bf16)
    }
    exact, rounded = load_file(files[SaveDtype.fp32]), load_file(files[SaveDtype.bf16])
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in exact.values())  # masters are fp32
    assert all(torch.equal(weight.bfloat16(), rounded[name]) for name, weight in exact.items())
