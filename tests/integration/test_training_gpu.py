"""Training on CUDA devices: run by hand where there are some (`pytest -m gpu`); CI has none.

Written without a GPU at hand: not run yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sft.adapters.os import gpus, machine
from sft.artifacts import CheckpointArtifact
from sft.config.schema import (
    FsdpConfig,
    GradientCheckpointing,
    LauncherConfig,
    Precision,
    ShardingStrategy,
    TrainingConfig,
)
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import changed, curve, metrics, ranks, running, steps_done, train, wait_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not machine.gpus(), reason="no CUDA device"),
]
ALL_GPUS = LauncherConfig()
ON_EXIT = """
import atexit, json, os, sys
if "RANK" in os.environ:
    def note():
        with open({file!r} + os.environ["RANK"], "w") as file:
            json.dump(sorted(name for name in sys.modules if name.startswith("liger_kernel.ops")), file)
    atexit.register(note)
"""
"""Writes down which of Liger's kernels a rank had loaded."""


@contextmanager
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same machine as one without CUDA devices."""
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        gpus.forget()
        yield
    gpus.forget()


def made(cfg: TrainingConfig, inputs: TrainInputs, out: Path) -> CheckpointArtifact:
    out.mkdir()
    return train(cfg, inputs, out, Progress(quiet=True))


def losses(made: CheckpointArtifact) -> list[float]:
    return [row["loss"] for row in metrics(made.root)]


def test_a_gpu_trains_what_the_cpu_trains_and_saves_a_model_that_loads(
    train_inputs: TrainInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = made(changed(launcher=ALL_GPUS), train_inputs, tmp_path / "gpu")
    with without_gpus(monkeypatch):
        on_cpu = made(changed(), train_inputs, tmp_path / "cpu")
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), abs=1e-2)

    import transformers

    _, facts = transformers.AutoModelForCausalLM.from_pretrained(on_gpu.model_dir, output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("strategy", list(ShardingStrategy))
def test_every_strategy_gives_the_same_loss_at_each_step(
    strategy: ShardingStrategy, offload: bool, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    reference = made(changed(launcher=ALL_GPUS), train_inputs, tmp_path / "reference")
    fsdp = FsdpConfig(sharding_strategy=strategy, cpu_offload_params=offload)
    other = made(changed(launcher=ALL_GPUS, fsdp=fsdp), train_inputs, tmp_path / "other")
    assert losses(other) == pytest.approx(losses(reference), abs=1e-3)


def test_bf16_with_recomputed_activations_learns_too(train_inputs: TrainInputs, tmp_path: Path) -> None:
    cfg = changed(launcher=ALL_GPUS, precision=Precision.bf16, gradient_checkpointing=GradientCheckpointing.full)
    trained = losses(made(cfg, train_inputs, tmp_path / "out"))
    assert trained[-1] < trained[0] / 2


def test_a_killed_run_goes_on_after_its_last_step(train_inputs: TrainInputs, tmp_path: Path) -> None:
    cfg = changed(launcher=ALL_GPUS, checkpoint_every_steps=1)
    undisturbed = made(cfg, train_inputs, tmp_path / "undisturbed")
    out = tmp_path / "out"
    out.mkdir()
    with running(cfg, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 9 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 10)
    train(cfg, train_inputs, out, Progress(quiet=True))
    assert [row[0] for row in curve(out)] == [row[0] for row in curve(undisturbed.root)]
    assert [row[1] for row in curve(out)] == pytest.approx([row[1] for row in curve(undisturbed.root)], abs=1e-4)


@pytest.mark.skipif(not machine.runs_liger(), reason="liger-kernel is not installed")
def test_liger_is_really_liger_and_learns_the_same(train_inputs: TrainInputs, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ON_EXIT.format(file=str(tmp_path / "liger_")), encoding="utf-8")
    env = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    plain = made(changed(launcher=ALL_GPUS), train_inputs, tmp_path / "plain")
    fused = made(changed(launcher=ALL_GPUS, use_liger=True, env=env), train_inputs, tmp_path / "fused")
    assert "liger_kernel.ops.rms_norm" in json.loads((tmp_path / "liger_0").read_text())
    assert losses(fused) == pytest.approx(losses(plain), abs=1e-2)
