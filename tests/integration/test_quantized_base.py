"""QLoRA on real ranks: the base in 4 bits while adapters are trained, and the unquantised one in the saved model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.merged_adapters import merged
from sft.artifacts import CheckpointArtifact
from sft.config.schema import BaseQuantization, GradientCheckpointing, LauncherConfig, LoraConfig, Precision
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import changed, curve, metrics, ranks, running, steps_done, train, wait_for, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LORA = LoraConfig(rank=4, alpha=8, dropout=0.0)
QLORA = replace(LORA, quantize=BaseQuantization.nf4_double_quant)
ONE_RANK: dict[str, Any] = {"launcher": LauncherConfig(procs_per_worker=1)}


def made(folder: Path, inputs: TrainInputs, said: list[str] | None = None, **settings: Any) -> CheckpointArtifact:
    folder.mkdir(exist_ok=True)
    progress = Progress(quiet=True)
    if said is not None:
        progress.say = said.append  # type: ignore[method-assign] # to read what a person would
    return train(changed(**{"lora": QLORA, "num_epochs": 1, **settings}), inputs, folder, progress)


def losses(made: CheckpointArtifact, name: str = "loss") -> list[float]:
    return [row[name] for row in metrics(made.root) if name in row]


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def tensors(folder: Path, name: str = "model.safetensors") -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / name)
    return found


@pytest.mark.long
def test_the_saved_model_is_the_unquantised_base_with_the_saved_adapter_in_it(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    checkpoint = made(tmp_path / "out", train_inputs, said, learning_rate=3e-2)
    note = json.loads((checkpoint.root / "logs" / "adapters.json").read_text())
    assert note["num_quantized"] == note["num_adapters"] == 14
    assert [line for line in said if "the base is in 4 bits: 14 matrices" in line]
    facts = json.loads((checkpoint.root / "adapter" / "adapter_config.json").read_text())
    assert facts["base_model_name_or_path"] == "scratch"
    base = AutoModelForCausalLM.from_pretrained(train_inputs.model.model_dir, dtype="auto").float()
    again, num_changed = merged(base, checkpoint.root / "adapter", 1.0)
    own = tensors(checkpoint.model_dir)
    assert num_changed == 14
    assert furthest(own, again.state_dict()) == 0
    before = tensors(train_inputs.model.model_dir)
    kept = [name for name in own if "_proj" not in name]
    assert kept
    assert furthest({name: own[name] for name in kept}, before) == 0
    assert furthest(own, before) > 1e-2
    assert losses(checkpoint)[-1] < losses(checkpoint)[0] - 0.1


@pytest.mark.exhaustive
def test_the_loss_is_near_that_of_whole_weights_and_not_the_same(train_inputs: TrainInputs, tmp_path: Path) -> None:
    validated = {"validation_split": 0.2, "validation_frequency": 2, **ONE_RANK}
    in_4_bits = made(tmp_path / "nf4", train_inputs, **validated)
    whole = made(tmp_path / "whole", train_inputs, lora=LORA, **validated)
    for name in ("loss", "validation_loss"):
        assert losses(in_4_bits, name) == pytest.approx(losses(whole, name), abs=0.05)
        assert losses(in_4_bits, name) != pytest.approx(losses(whole, name), abs=1e-5)


@pytest.mark.exhaustive
def test_a_killed_run_goes_on_to_the_same_weights(train_inputs: TrainInputs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "lora": replace(QLORA, dropout=0.1),
        "checkpoint_every_steps": 1,
        "precision": Precision.bf16,
    }
    undisturbed, out = made(tmp_path / "whole", train_inputs, **settings), tmp_path / "out"
    out.mkdir()
    with running(changed(num_epochs=1, **settings), train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 3 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 5)
    continued = made(out, train_inputs, **settings)
    assert steps_done(continued.root) == 7
    assert curve(continued.root) == curve(undisturbed.root)
    assert weights(continued) == weights(undisturbed)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, ONE_RANK),
        (
            {"context_parallel": 2, "max_tokens_per_gpu": 128, "adam_epsilon": 1e-5},
            {"adam_epsilon": 1e-5, **ONE_RANK},
        ),
        ({"gradient_checkpointing": GradientCheckpointing.full, **ONE_RANK}, ONE_RANK),
    ],
    ids=["two ranks", "shared rows", "recomputed"],
)
def test_losses_are_those_of_one_rank_with_whole_rows(
    one: dict[str, Any], other: dict[str, Any], train_inputs: TrainInputs, tmp_path: Path
) -> None:
    found, expected = made(tmp_path / "one", train_inputs, **one), made(tmp_path / "other", train_inputs, **other)
    assert losses(found) == pytest.approx(losses(expected), abs=1e-4)
    assert losses(found, "gradient_norm") == pytest.approx(losses(expected, "gradient_norm"), abs=1e-3)
    assert (
        furthest(
            tensors(found.root / "adapter", "adapter_model.safetensors"),
            tensors(expected.root / "adapter", "adapter_model.safetensors"),
        )
        < 1e-3
    )
