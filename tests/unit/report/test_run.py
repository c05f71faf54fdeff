"""What a run ends with: scores before and after, what was forgotten, and a page of both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from sft.artifacts import (
    CheckpointArtifact,
    ChosenStep,
    EvalReport,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    UploadedModel,
)
from sft.errors import GateError
from sft.record import RunRecord, begin
from sft.report.run import score_lines, summary, write_page
from sft.report.run_page import as_html
from sft.report.run_view import of_result
from sft.runner import RunResult
from sft.scores import Change, Score, Verdict
from sft.stages.changed_samples import ChangedSample


def score(task: str, value: float, stderr: float | None = None, metric: str = "acc") -> Score:
    return Score(
        task=task, metric=metric, value=value, stderr=stderr, num_samples=1500, higher_is_better=metric == "acc"
    )


def report(*scores: Score, **data: str) -> EvalReport:
    return EvalReport(root=Path("report"), model_digest="", scores=scores, task_data=data)


@pytest.fixture
def record() -> RunRecord:
    return begin(run_id="r", recipe=Path("r"), command=[], config={}, gpus=[], resources={}, steps=["package"])


def compared(tmp_path: Path, *changes: Change, samples: bytes = b"") -> ModelComparison:
    made = ModelComparison(root=tmp_path, confidence=0.95, num_tests=len(changes), changes=changes)
    made.samples_file.write_bytes(samples)
    return made


def change(score: str, low: float, high: float, verdict: Verdict) -> Change:
    facts = {"before": 0.4, "difference": (low + high) / 2, "higher_is_better": True, "num_units": 1500}
    return Change(score=score, verdict=verdict, corrected=(low, high), interval=(low, high), detectable=0.04, **facts)


def test_a_score_is_a_line_with_before_after_verdict_and_what_would_be_seen(tmp_path: Path) -> None:
    found = compared(tmp_path, change("arc.acc", 0.05, 0.15, Verdict.better))
    lines = [*score_lines(report(score("arc", 0.5, 0.01)), report(score("arc", 0.4, 0.01)), found)]
    assert lines == [
        "arc.acc                   0.4000 → 0.5000 ± 0.0100",
        "    +0.1000, better (+0.0500 to +0.1500)  (1,500 samples tell over 0.0400)",
        "± after a score: its standard error; in brackets: where the true difference lies",
        "tell over: how large a true difference must be to be seen four times in five",
        "differences: 1 paired test, 0.95 confidence",
    ]


def test_lines_of_scores_fit_80_columns_however_large_these_are(tmp_path: Path) -> None:
    name = "support_of_customers_in_german"
    large = replace(change(f"{name}.perplexity", -123456.1234, -111111.1234, Verdict.better), detectable=99999.1234)
    values = (score(name, value, 1234.5678, "perplexity") for value in (2345678.1234, 2222222.1234))
    lines = [*score_lines(*map(report, values), compared(tmp_path, large))]
    assert max(map(len, lines)) <= 80
    assert "    -117283.6234, better (-123456.1234 to -111111.1234)" in lines


def test_what_is_to_be_known_of_how_scores_came_about_follows_them(tmp_path: Path, record: RunRecord) -> None:
    tuned = replace(report(score("arc", 0.5)), notes=("3 of <4> answers were cut",))
    base = replace(report(score("arc", 0.5)), notes=("4 of 4 answers were cut",))
    lines = [*score_lines(tuned, base, None)]
    assert lines[-2:] == ["note: 3 of <4> answers were cut", "note: base model: 4 of 4 answers were cut"]
    made = {"evaluate:tuned": tuned, "evaluate:base": base}
    page = as_html(of_result(RunResult(tmp_path, record, made, nothing_to_do=False), None))
    assert "<li>3 of &lt;4&gt; answers were cut</li><li>base model: 4 of 4 answers were cut</li>" in page
    del made["evaluate:tuned"]
    page = as_html(of_result(RunResult(tmp_path, record, made, nothing_to_do=False), None))
    assert "<li>4 of 4 answers were cut</li>" in page


def test_without_the_base_models_score_there_is_no_difference() -> None:
    [line] = score_lines(report(score("arc", 0.5)), None, None)
    assert line.split() == ["arc.acc", "0.5000", "(1,500", "samples)"]


def test_a_task_that_got_clearly_worse_is_a_warning_and_the_held_out_split_is_not_a_task(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        change("arc.acc", -0.2, -0.1, Verdict.worse),
        change("piqa.acc", -0.2, 0.1, Verdict.no_difference),
        change("holdout.acc", -0.2, -0.1, Verdict.worse),
    )
    scores = report(score("arc", 0.5), score("piqa", 0.5), score("holdout", 1.0))
    *_, warning = score_lines(scores, scores, found)
    assert warning == "warning: worse than before on arc.acc: the model may be forgetting what it knew"


def test_scores_on_other_data_are_a_warning(tmp_path: Path) -> None:
    before, after = (report(score("arc", 0.5), arc=data) for data in ("old", "new"))
    *_, warning = score_lines(after, before, compared(tmp_path))
    assert warning.startswith("warning: the data of arc changed since the base model was scored")


def test_a_page_escapes_names_and_shows_each_score_and_the_samples_that_changed(
    record: RunRecord, tmp_path: Path
) -> None:
    sample = ChangedSample(
        task="holdout", sample=7, turn=1, change=2.0, prompt="Is 1 < 2?", reference="Yes.", base=None, tuned="<b>No",
        scores={"loss": (1.0, 0.5)},
    )  # fmt: skip
    found = compared(tmp_path, change("a<b.acc", 0.2, 0.3, Verdict.better), samples=msgspec.json.encode(sample))
    record.run_id = "<run>"
    made = {"evaluate:tuned": report(score("a<b", 0.5, 0.01)), "evaluate:base": report(score("a<b", 0.25))}
    page = as_html(of_result(RunResult(tmp_path, record, {**made, "compare": found}, nothing_to_do=False), None))
    assert "<h1>&lt;run&gt;</h1>" in page
    assert (
        "a&lt;b.acc</th><td>0.2500</td><td>0.5000 ± 0.0100</td><td>+0.2500, better (+0.2000 to +0.3000)</td>"
        "<td>1,500 samples</td><td>0.0400</td>"
    ) in page
    assert "<summary>holdout, sample 7, turn 2: loss 1.0000 → 0.5000 (-0.5000)</summary>" in page
    for part in ("Is 1 &lt; 2?", "Yes.", "(nothing was written)", "&lt;b&gt;No"):
        assert f'<pre class="block">{part}</pre>' in page


def test_page_and_summary_say_which_step_was_chosen(record: RunRecord, tmp_path: Path) -> None:
    choice = ChosenStep(
        step=40, metric="validation_loss", value=1.2345, num_steps=60, num_planned=100, stopped_early=True
    )
    trained = CheckpointArtifact(root=tmp_path, num_steps=60, num_epochs=1, final_loss=1.0, world_size=1, choice=choice)
    result = RunResult(
        tmp_path, record, {"train": trained, "evaluate:tuned": report(score("arc", 0.5))}, nothing_to_do=False
    )
    said = "training chose step 40 of 60 by validation_loss 1.234; stopped early, of 100 planned"
    assert said in [*summary(result)]
    page = write_page(result)
    assert page
    assert f"<p>The {said}.</p>" in page.read_text()


def test_page_and_summary_say_of_which_set_the_scores_are_optimistic(record: RunRecord, tmp_path: Path) -> None:
    of_set = {"num_models": 3, "sets": ("gold",)}
    choice = ChosenStep(step=4, metric="validation_loss.gold", value=1.5, num_steps=6, num_planned=6, **of_set)
    trained = CheckpointArtifact(root=tmp_path, num_steps=6, num_epochs=1, final_loss=1.0, world_size=1, choice=choice)
    result = RunResult(
        tmp_path, record, {"train": trained, "evaluate:tuned": report(score("gold", 0.5))}, nothing_to_do=False
    )
    assert f"note: {choice.optimism}" in [*summary(result)]
    page = write_page(result)
    assert page
    assert f"chose step 4 of 6 by validation_loss.gold 1.5; {choice.optimism}.</p>" in page.read_text()


def test_the_page_lies_beside_the_record_and_is_left_alone_where_nothing_was_done(
    record: RunRecord, tmp_path: Path
) -> None:
    result = RunResult(tmp_path, record, {"evaluate:tuned": report(score("arc", 0.5))}, nothing_to_do=False)
    page = write_page(result)
    assert page == tmp_path / "run.html"
    page.write_text("as it was")
    write_page(replace(result, nothing_to_do=True))
    assert page.read_text() == "as it was"
    write_page(replace(result, artifacts={}))
    assert "arc.acc" not in page.read_text()
    write_page(result, GateError(["arc.acc is 0.5, not > 0.6"]))
    assert "not registered\n  - arc.acc is 0.5, not &gt; 0.6" in page.read_text()


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


def test_a_summary_ends_with_what_can_be_done_with_the_model(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my r").mkdir()
    (tmp_path / "store" / "p" / "model").mkdir(parents=True)
    (tmp_path / "my r" / "model").symlink_to("../store/p/model")
    artifacts = {"package": ModelPackage(root=tmp_path / "store" / "p", record_digest="")}
    record.config["model"] = {"trust_remote_code": True}
    *_, load, chat, serve, go_on = summary(RunResult(tmp_path / "my r", record, artifacts, nothing_to_do=False))
    assert load == "load        AutoModelForCausalLM.from_pretrained('my r/model')"
    assert chat == "chat        sft chat 'my r' model.trust_remote_code=true"
    assert serve == "serve       sft serve 'my r' model.trust_remote_code=true"
    assert go_on == "continue    sft run RECIPE model.name_or_path='my r/model' model.trust_remote_code=true"
    (tmp_path / "my r" / "model").unlink()
    (tmp_path / "my r" / "model").mkdir()  # somebody's own
    *_, load, _, _, go_on = summary(RunResult(tmp_path / "my r", record, artifacts, nothing_to_do=False))
    assert load == "load        AutoModelForCausalLM.from_pretrained('store/p/model')"
    assert go_on == "continue    sft run RECIPE model.name_or_path=store/p/model model.trust_remote_code=true"


def test_a_run_that_was_done_before_says_when(record: RunRecord, tmp_path: Path) -> None:
    record.ended_at = "2026-01-01T00:00:00Z"
    first, *_ = summary(RunResult(tmp_path, record, {}, nothing_to_do=True))
    assert first == "nothing to do: this run was done at 2026-01-01T00:00:00Z"


def test_a_score_that_is_not_a_number_is_shown_as_such(record: RunRecord, tmp_path: Path) -> None:
    result = RunResult(tmp_path, record, {"evaluate:tuned": report(score("arc", math.nan))}, nothing_to_do=False)
    assert "<td>nan</td>" in as_html(of_result(result, None))
