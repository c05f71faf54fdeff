"""Settings by dotted key, as registries take them."""

from __future__ import annotations

import pytest

from sft.config.flatten import flat
from sft.config.schema import EvalConfig, RunConfig, TrainingConfig


def test_numbers_stay_numbers_lists_are_json_and_null_is_left_out() -> None:
    cfg = RunConfig(
        training=TrainingConfig(num_epochs=3, learning_rate=1e-5, env={"NCCL_DEBUG": "INFO"}),
        eval=EvalConfig(tasks=["arc_easy", "piqa"], limit=None),
    )
    settings = flat(cfg, ["training", "eval"])
    assert settings["training.num_epochs"] == 3
    assert settings["training.learning_rate"] == 1e-5
    assert settings["training.fsdp.sharding_strategy"] == "FULL_SHARD"
    assert settings["training.env.NCCL_DEBUG"] == "INFO"
    assert settings["eval.tasks"] == '["arc_easy","piqa"]'
    assert "eval.limit" not in settings
    assert {key.partition(".")[0] for key in settings} == {"training", "eval"}


def test_a_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-1234")
    cfg = RunConfig(training=TrainingConfig(env={"A": "canary-1234"}))
    assert flat(cfg, ["training"])["training.env.A"] == "***"
