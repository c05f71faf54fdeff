"""A training that continues an adapter: begins where that ended, leaves the base as it is, resumes to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact, ModelArtifact
from sft.config.continued_adapter import take_settings
from sft.config.schema import (
    AdapterUse,
    FsdpConfig,
    LauncherConfig,
    LoraConfig,
    LoraInit,
    LrScheduler,
    ModelConfig,
    TrainingConfig,
)
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.model import ModelInputs, model, source_version
from sft.stages.training_task import TrainInputs
from tests.support.training import STEPS_PER_EPOCH, changed, curve, metrics, running, steps_done, train, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WHOLE_BATCH = 200  # every sample of an epoch in one step
PISSA_DORA = LoraConfig(rank=2, alpha=8, dropout=0.0, init=LoraInit.pissa, use_dora=True, modules_to_save=["norm"])


@pytest.fixture(scope="module")
def adapter(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of rank 4, as a training here saves it: twice that of PiSSA, DoRA, and the last norm whole."""
    out = tmp_path_factory.mktemp("first")
    cfg = changed(lora=PISSA_DORA, num_epochs=1, lr_scheduler=LrScheduler.constant, warmup_steps=0)
    return train(cfg, train_inputs, out, Progress(quiet=True)).root / "adapter"


def continued(adapter: Path, inputs: TrainInputs, out: Path, **settings: Any) -> tuple[TrainingConfig, TrainInputs]:
    """What continues an adapter: the settings, and the model that its stage makes."""
    cfg = ModelConfig(name_or_path=str(inputs.model.model_dir), adapter=str(adapter), adapter_use=AdapterUse.continued)
    lora = LoraConfig()
    assert not [*take_settings(cfg, lora)]
    out.mkdir()
    made = model(cfg, ModelInputs(dataset=None), out, Progress(quiet=True))
    return changed(lora=lora, **settings), replace(inputs, model=made)


def tensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(file))


def loss_of(network: Any, data: Path) -> float:
    """Mean loss of a token of the data that trains, one sample after the other."""
    import torch

    total, number = 0.0, 0
    for row in map(json.loads, data.read_text().splitlines()):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum").item()
        number += int((labels[1:] != -100).sum())
    return total / number


def with_adapter(base: ModelArtifact, adapter: Path) -> Any:
    """By PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.model_dir), adapter).eval()


@pytest.mark.long
def test_the_model_before_is_the_base_with_the_adapter_and_the_base_is_kept_for_the_ranks(
    adapter: Path, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = train_inputs.model
    _, inputs = continued(adapter, train_inputs, tmp_path / "model")
    made = inputs.model
    assert (made.model_dir, made.trained_dir) == (tmp_path / "model", base.model_dir)
    assert made.continued_adapter == tmp_path / "model" / "adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (made.continued_adapter / name).read_bytes() == (adapter / name).read_bytes()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(made.model_dir)(ids).logits
        assert torch.allclose(merged, with_adapter(base, adapter)(ids).logits, atol=1e-4)


@pytest.mark.exhaustive
def test_it_begins_with_the_loss_of_the_adapter_and_ends_as_one_of_the_same_base(
    adapter: Path, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"num_epochs": 2, "lr_scheduler": LrScheduler.constant, "warmup_steps": 0}
    cfg, inputs = continued(
        adapter,
        train_inputs,
        tmp_path / "model",
        **settings,
        effective_batch_size=WHOLE_BATCH,
        checkpoint_at_epoch=True,
    )
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = train(cfg, inputs, out, Progress(quiet=True))
    rows = metrics(out)
    base = train_inputs.model
    before = loss_of(with_adapter(base, adapter), train_inputs.tokenized.data_file)
    assert rows[0]["loss"] == pytest.approx(before, abs=2e-6)
    assert rows[1]["loss"] < rows[0]["loss"] - 0.005
    alone = loss_of(AutoModelForCausalLM.from_pretrained(base.model_dir), train_inputs.tokenized.data_file)
    assert alone > before + 0.1
    old, new = (tensors(folder / "adapter_model.safetensors") for folder in (adapter, checkpoint.root / "adapter"))
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    assert all((old[name] - new[name]).abs().max() > 0 for name in old)
    facts = json.loads((checkpoint.root / "adapter" / "adapter_config.json").read_text())
    assert (facts["r"], facts["use_dora"], facts["base_model_name_or_path"]) == (4, True, str(base.model_dir))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        answers = AutoModelForCausalLM.from_pretrained(checkpoint.model_dir)(ids).logits
        assert torch.allclose(answers, with_adapter(base, checkpoint.root / "adapter")(ids).logits, atol=1e-4)
    frozen = tensors(base.model_dir / "model.safetensors")
    trained = tensors(checkpoint.model_dir / "model.safetensors")
    assert torch.equal(frozen["model.embed_tokens.weight"], trained["model.embed_tokens.weight"])


@pytest.mark.exhaustive
def test_a_rate_of_almost_nothing_saves_the_adapter_that_it_began_with(
    adapter: Path, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    """So small a step changes no bit of fp32, but of what is 0."""
    import torch

    one_step = {"num_epochs": 1, "effective_batch_size": WHOLE_BATCH, "warmup_steps": 0}
    cfg, inputs = continued(adapter, train_inputs, tmp_path / "model", learning_rate=1e-30, **one_step)
    out = tmp_path / "out"
    out.mkdir()
    checkpoint = train(cfg, inputs, out, Progress(quiet=True))
    old, new = (tensors(folder / "adapter_model.safetensors") for folder in (adapter, checkpoint.root / "adapter"))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old if old[name].abs().min() > 0)
    assert all(torch.allclose(old[name], new[name], rtol=0, atol=1e-29) for name in old)


@pytest.mark.exhaustive
@pytest.mark.parametrize("version", [1, 2])
def test_two_ranks_train_as_one_does(version: int, adapter: Path, train_inputs: TrainInputs, tmp_path: Path) -> None:
    curves = []
    for ranks in (1, 2):
        cfg, inputs = continued(
            adapter,
            train_inputs,
            tmp_path / f"model-{ranks}",
            num_epochs=1,
            fsdp=FsdpConfig(version=version),
            launcher=LauncherConfig(procs_per_worker=ranks),
        )
        out = tmp_path / f"out-{ranks}"
        out.mkdir()
        train(cfg, inputs, out, Progress(quiet=True))
        curves.append([row["loss"] for row in metrics(out)])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_to_the_same_bits(adapter: Path, train_inputs: TrainInputs, tmp_path: Path) -> None:
    cfg, inputs = continued(adapter, train_inputs, tmp_path / "model", num_epochs=2)
    cfg.lora.dropout = 0.1  # its random numbers go on, too
    made: list[CheckpointArtifact] = []
    for name in ("undisturbed", "stopped"):
        out = tmp_path / name
        out.mkdir()
        if name == "stopped":
            with running(cfg, inputs, out) as parent:
                assert wait_for(lambda folder=out: steps_done(folder) >= STEPS_PER_EPOCH + 2, 240)
                parent.terminate()
                assert parent.wait(60) == 75
            assert steps_done(out) < 2 * STEPS_PER_EPOCH
        made.append(train(cfg, inputs, out, Progress(quiet=True)))
    assert curve(made[0].root) == curve(made[1].root)
    files = [checkpoint.root / "adapter" / "adapter_model.safetensors" for checkpoint in made]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_changed_adapter_is_another_model_and_one_of_other_shapes_is_refused_by_the_plan(
    adapter: Path, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cfg = ModelConfig(
        name_or_path=str(train_inputs.model.model_dir), adapter=str(tmp_path), adapter_use=AdapterUse.continued
    )
    before = source_version(cfg)
    (tmp_path / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + "\n")
    assert source_version(cfg) != before
    weights = tensors(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file({**weights, name: torch.zeros(4, 48)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        StageError, match=r"is of a weight model.layers.0.mlp.up_proj of 64 x 48, but the model's has 64"
    ):
        source_version(cfg)
