"""Which points of a sweep are not run, and what a sampler gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.os import machine
from sft.artifacts import CheckpointArtifact, EvalReport, JudgeReport
from sft.config.schema import RunConfig
from sft.errors import StageError
from sft.scores import Score
from sft.sweep import records
from sft.sweep.point import check_point, score
from sft.sweep.records import Point
from tests.support.configs import composed

ONE_RANK = ["training.launcher.procs_per_worker=1"]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(machine, "host_bytes", lambda: 16 << 30)


def config(*overrides: str) -> RunConfig:
    return composed(*overrides)


def judged(*overrides: list[str], until: str | None = None) -> list[Point]:
    points: list[Point] = []
    for one in overrides:
        cfg = config(*one)
        point = records.point(len(points) + 1, dict(text.partition("=")[::2] for text in one), cfg)
        check_point(point, cfg, until, points, 1)
        points.append(point)
    return points


def test_on_one_rank_only_one_strategy_is_run_and_the_others_say_why() -> None:
    names = ("full_shard", "shard_grad_op", "no_shard")
    found = judged(*[[f"training/fsdp={name}", *ONE_RANK] for name in names])
    assert [(point.status, point.twin) for point in found] == [("pending", None), ("same", 1), ("same", 1)]
    assert found[1].reason == (
        "the same work as point 1 (training.fsdp.sharding_strategy=SHARD_GRAD_OP: one rank has nothing to shard over; "
        "NO_SHARD)"
    )


def test_what_can_not_fit_is_not_run_and_is_nobodys_twin() -> None:
    huge = ["training.max_tokens_per_gpu=100000000", "training.max_seq_len=256"]
    found = judged(huge, huge, ["training.max_seq_len=256"])
    assert [point.status for point in found] == ["skipped", "skipped", "pending"]
    assert "GiB per rank by the estimate, there are" in str(found[0].reason)


def test_only_the_steps_that_are_reached_make_points_differ() -> None:
    overrides = (["eval.limit=1"], ["eval.limit=2"])
    assert [point.status for point in judged(*overrides)] == ["pending", "pending"]
    assert [point.status for point in judged(*overrides, until="train")] == ["pending", "same"]


def made(*scores: Score) -> dict[str, CheckpointArtifact | EvalReport]:
    checkpoint = CheckpointArtifact(root=Path(), num_steps=1, num_epochs=1, final_loss=0.5, world_size=1)
    return {"train": checkpoint, "evaluate:tuned": EvalReport(root=Path(), model_digest="", scores=scores)}


ACCURACY = Score(task="t", metric="acc", value=0.9, stderr=None, num_samples=1, higher_is_better=True)


def test_the_objective_is_a_score_of_the_tuned_model_or_the_last_loss() -> None:
    assert score(made(ACCURACY), "t.acc", higher_is_better=True) == 0.9
    assert score(made(), "train.loss", higher_is_better=False) == 0.5


def test_the_objective_may_be_the_judges_verdict() -> None:
    win_rate = Score(task="judge", metric="win_rate", value=0.75, stderr=0.1, num_samples=4, higher_is_better=True)
    counts = {"num_wins": 3, "num_ties": 0, "num_losses": 1, "num_equal": 0, "num_disagreements": 0}
    judged = JudgeReport(root=Path(), model="m", score=win_rate, num_unparsable=0, **counts)
    assert score({**made(ACCURACY), "judge": judged}, "judge.win_rate", higher_is_better=True) == 0.75


def test_an_objective_that_is_missing_names_what_there_is() -> None:
    with pytest.raises(StageError, match=r"sweep.objective=t.f1: there is no such score\n.*one of train.loss, t.acc"):
        score(made(ACCURACY), "t.f1", higher_is_better=None)


def test_a_sampler_that_goes_the_wrong_way_is_stopped() -> None:
    with pytest.raises(StageError, match=r"better when it is higher\n.*hydra.sweeper.direction=maximize"):
        score(made(ACCURACY), "t.acc", higher_is_better=False)
    assert score(made(ACCURACY), "t.acc", higher_is_better=None) == 0.9  # no sampler, no direction
