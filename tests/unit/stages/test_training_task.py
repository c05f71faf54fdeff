"""Settings of a recipe as the library gets them."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sft.adapters.instructlab.settings import MainArgs
from sft.adapters.os import machine
from sft.artifacts import ModelArtifact, TokenizedArtifact
from sft.config.schema import FsdpConfig, LauncherConfig, LoraConfig, LrScheduler, ShardingStrategy, TrainingConfig
from sft.planning import kernels, precision, resources, step_count
from sft.planning.resources import resolve_resources
from sft.stages import launcher, training_task
from sft.stages import train as train_stage
from sft.stages.training_task import TrainInputs, main_args, worker_options


def inputs_of(cfg: TrainingConfig, root: Path) -> TrainInputs:
    model = ModelArtifact(root=root / "base", source="scratch", revision="", external_dir=None, num_parameters=None)
    tokens = TokenizedArtifact(root=root, num_rows=1, num_samples=1, num_tokens=9, num_loss_tokens=3, longest_tokens=9)
    validated = {name: replace(tokens, root=root / name, longest_tokens=99) for name in cfg.validation_sets}
    return TrainInputs(model=model, tokenized=tokens, resources=resolve_resources(cfg), validated=validated)


def mapped(cfg: TrainingConfig, root: Path) -> MainArgs:
    return main_args(cfg, inputs_of(cfg, root), root / "work")


def test_a_changed_setting_reaches_the_library(tmp_path: Path) -> None:
    cfg = TrainingConfig(
        learning_rate=0.5,
        lr_scheduler=LrScheduler.linear,
        warmup_steps=7,
        weight_decay=0.25,
        max_tokens_per_gpu=123,
        neftune_alpha=5.0,
        validation_split=0.1,
        lora=LoraConfig(rank=8, target_modules=["q_proj"]),
        fsdp=FsdpConfig(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP),
        launcher=LauncherConfig(procs_per_worker=2),
    )
    args = mapped(cfg, tmp_path)
    assert (args.learning_rate, args.lr_scheduler, args.num_warmup_steps) == (0.5, "linear", 7)
    assert (args.adamw_weight_decay, args.max_batch_len) == (0.25, 123)
    assert (args.NEFTune_alpha, args.validation_split) == (5.0, 0.1)
    assert args.lora_r == 8
    assert args.fsdp_sharding_strategy == "SHARD_GRAD_OP"


def test_the_ranks_get_the_file_of_each_validated_set_and_the_same_arguments_as_without(tmp_path: Path) -> None:
    alone, both = TrainingConfig(), TrainingConfig(validation_sets=["gold", "chat"])
    assert worker_options(both, inputs_of(both, tmp_path)).validation_sets == {
        "gold": str(tmp_path / "gold" / "data.jsonl"),
        "chat": str(tmp_path / "chat" / "data.jsonl"),
    }
    assert worker_options(alone, inputs_of(alone, tmp_path)).validation_sets == {}
    assert mapped(both, tmp_path) == mapped(alone, tmp_path)


@pytest.mark.parametrize("runs", [False, True])
def test_liger_is_the_librarys_model_class_and_not_its_flag(
    runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(machine, "runs_liger", lambda: runs)
    monkeypatch.setattr(machine, "c_compiler", lambda: "gcc")
    args = mapped(TrainingConfig(use_liger=True), tmp_path)
    assert args.model_class == ("Liger" if runs else "CausalLM")


def test_every_setting_of_a_training_goes_somewhere(tmp_path: Path) -> None:
    """A setting that neither the library, nor the worker, nor the launch depends on would be silent."""
    source = "".join(
        map(inspect.getsource, (train_stage, training_task, launcher, kernels, precision, resources, step_count))
    )
    elsewhere = {"max_seq_len", "on_too_long", "train_on", "train_on_reasoning"}  # the tokenize stage
    elsewhere |= {"allow_any_env"}  # checks
    elsewhere |= {"learning_rate"} if "cfg.rate()" in source else set()
    for field in fields(TrainingConfig):
        assert f"cfg.{field.name}" in source or field.name in elsewhere, field.name
