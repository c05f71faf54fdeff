"""Settings of a recipe as the library gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.instructlab.settings import MainArgs
from sft.artifacts import ModelArtifact, TokenizedArtifact
from sft.config.schema import FsdpConfig, LauncherConfig, LrScheduler, ShardingStrategy, TrainingConfig
from sft.stages.train import TrainInputs, main_args, num_processes


def mapped(cfg: TrainingConfig, root: Path, ranks: int) -> MainArgs:
    model = ModelArtifact(root=root / "base", source="scratch", revision="", external_dir=None, num_parameters=None)
    tokens = TokenizedArtifact(root=root, num_samples=1, num_tokens=9, num_loss_tokens=3, longest_tokens=9)
    return main_args(cfg, TrainInputs(model=model, tokenized=tokens), root / "work", ranks)


def test_a_changed_setting_reaches_the_library(tmp_path: Path) -> None:
    cfg = TrainingConfig(
        learning_rate=0.5,
        lr_scheduler=LrScheduler.linear,
        warmup_steps=7,
        weight_decay=0.25,
        max_tokens_per_gpu=123,
        full_state_at_epoch=False,
        fsdp=FsdpConfig(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP, cpu_offload_params=True),
    )
    args = mapped(cfg, tmp_path, ranks=2)
    assert (args.learning_rate, args.lr_scheduler, args.num_warmup_steps) == (0.5, "linear", 7)
    assert (args.adamw_weight_decay, args.max_batch_len) == (0.25, 123)
    assert (args.fsdp_sharding_strategy, args.cpu_offload_params_fsdp) == ("SHARD_GRAD_OP", True)
    assert args.accelerate_full_state_at_epoch is False


@pytest.mark.parametrize("strategy", ShardingStrategy)
def test_one_rank_does_not_shard(strategy: ShardingStrategy, tmp_path: Path) -> None:
    cfg = TrainingConfig(fsdp=FsdpConfig(sharding_strategy=strategy))
    assert mapped(cfg, tmp_path, ranks=1).fsdp_sharding_strategy == "NO_SHARD"
    assert mapped(cfg, tmp_path, ranks=2).fsdp_sharding_strategy == strategy.value


def test_ranks_are_as_many_as_asked_for() -> None:
    assert num_processes(TrainingConfig(launcher=LauncherConfig(procs_per_worker=3))) == 3
