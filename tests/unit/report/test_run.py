"""What a run ends with: scores before and after, what was forgotten, and a page of both."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sft.artifacts import EvalReport, ModelPackage, RegisteredModel, UploadedModel
from sft.record import RunRecord, begin
from sft.report.run import as_html, score_lines, summary
from sft.runner import RunResult
from sft.scores import Score


def score(task: str, value: float, stderr: float | None = None, metric: str = "acc") -> Score:
    return Score(
        task=task, metric=metric, value=value, stderr=stderr, num_samples=1500, higher_is_better=metric == "acc"
    )


def report(*scores: Score, **data: str) -> EvalReport:
    return EvalReport(root=Path("report"), model_digest="", scores=scores, task_data=data)


@pytest.fixture
def record() -> RunRecord:
    return begin(run_id="r", recipe=Path("r"), command=[], config={}, gpus=[], resources={}, steps=["package"])


def test_a_score_is_a_line_with_before_after_error_and_difference() -> None:
    [line] = score_lines(report(score("arc", 0.5, 0.01)), report(score("arc", 0.4, 0.01)))
    assert line.split() == [
        "arc.acc",
        "0.4000",
        "→",
        "0.5000",
        "±",
        "0.0100",
        "+0.1000,",
        "better",
        "(1,500",
        "samples)",
    ]


def test_without_the_base_models_score_there_is_no_difference() -> None:
    [line] = score_lines(report(score("arc", 0.5)), None)
    assert line.split() == ["arc.acc", "0.5000", "(1,500", "samples)"]


def test_a_task_that_got_clearly_worse_is_a_warning_and_the_held_out_split_is_not_a_task() -> None:
    before = report(score("arc", 0.5, 0.01), score("piqa", 0.5, 0.1), score("holdout", 1.0, 0.01, "loss"))
    after = report(score("arc", 0.4, 0.01), score("piqa", 0.45, 0.1), score("holdout", 2.0, 0.01, "loss"))
    *_, warning = score_lines(after, before)
    assert warning == "warning: worse than before on arc.acc: the model may be forgetting what it knew"


def test_scores_on_other_data_are_a_warning() -> None:
    *_, warning = score_lines(report(score("arc", 0.5), arc="new"), report(score("arc", 0.5), arc="old"))
    assert warning.startswith("warning: the data of arc changed since the base model was scored")


def test_a_page_escapes_names_and_shows_each_score() -> None:
    page = as_html("<run>", report(score("a<b", 0.5, 0.01)), report(score("a<b", 0.25)))
    assert "<h1>&lt;run&gt;</h1>" in page
    assert "<th>a&lt;b.acc</th><td>0.2500</td><td>0.5000 ± 0.0100</td><td>+0.2500, better</td><td>1,500</td>" in page


def test_a_summary_says_where_everything_is(record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = {
        "package": ModelPackage(root=tmp_path / "store" / "p", record_digest=""),
        "upload": UploadedModel(root=tmp_path, uri="s3://models/m", num_files=2, num_bytes=3),
        "register": RegisteredModel(
            root=tmp_path, registry="mlflow", address="sqlite:///m", name="m", version="2", uri=""
        ),
        "evaluate:tuned": report(score("arc", 0.5)),
    }
    lines = list(summary(RunResult(tmp_path / "r", record, artifacts, nothing_to_do=False)))
    assert [line.split() for line in lines if line] == [
        ["arc.acc", "0.5000", "(1,500", "samples)"],
        ["record", "r/run.json"],
        ["model", "store/p/model"],
        ["uploaded", "s3://models/m"],
        ["registered", "m", "version", "2", "in", "sqlite:///m"],
    ]


def test_a_run_that_was_done_before_says_when(record: RunRecord, tmp_path: Path) -> None:
    record.ended_at = "2026-01-01T00:00:00Z"
    first, *_ = summary(RunResult(tmp_path, record, {}, nothing_to_do=True))
    assert first == "nothing to do: this run was done at 2026-01-01T00:00:00Z"


def test_a_score_that_is_not_a_number_is_shown_as_such() -> None:
    assert "nan" in as_html("run", report(score("arc", math.nan)), None)
