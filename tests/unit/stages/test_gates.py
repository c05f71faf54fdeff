"""Gates let a model pass or keep it back, and say by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import EvalReport, JudgeReport, ModelComparison
from sft.config.schema import EvalConfig
from sft.errors import GateError, StageError
from sft.progress import Progress
from sft.sample_values import SampleValues, append
from sft.scores import Change, Score, Verdict
from sft.stages.gates import GatesInputs, gates

QUIET = Progress(quiet=True)


def report(root: Path, accuracy: float, loss: float, **changes: str) -> EvalReport:
    facts = {"stderr": 0.01, "num_samples": 100}
    root.mkdir(exist_ok=True)
    append(root, [])
    return EvalReport(
        root=root,
        model_digest="m",
        scores=(
            Score(task="arc_easy", metric="acc", value=accuracy, higher_is_better=True, **facts),
            Score(task="holdout", metric="loss", value=loss, higher_is_better=False, **facts),
        ),
        task_data={"arc_easy": "d"} | changes,
    )


def compared(tuned: EvalReport, **verdicts: Change) -> ModelComparison:
    return ModelComparison(root=tuned.root, confidence=0.95, num_tests=2, changes=tuple(verdicts.values()))


def accuracy(low: float, high: float, verdict: Verdict) -> Change:
    facts = {"before": 0.5, "difference": (low + high) / 2, "higher_is_better": True, "interval": (low, high)}
    return Change(score="arc_easy.acc", verdict=verdict, corrected=(low, high), **facts)


def loss(low: float, high: float, verdict: Verdict) -> Change:
    return replace(accuracy(low, high, verdict), score="holdout.loss", higher_is_better=False)


@pytest.fixture
def inputs(tmp_path: Path) -> GatesInputs:
    tuned = report(tmp_path, 0.48, 1.5)
    changes = {"acc": accuracy(-0.03, 0.01, Verdict.no_difference), "loss": loss(-0.6, -0.4, Verdict.better)}
    return GatesInputs(
        baseline=report(tmp_path / "base", 0.5, 2.0), report=tuned, comparison=compared(tuned, **changes)
    )


def asked(**rules: str) -> EvalConfig:
    return EvalConfig(gates={name.replace("__", "."): rule for name, rule in rules.items()})


def test_a_model_that_passes_is_let_through_with_each_gate_named(inputs: GatesInputs, tmp_path: Path) -> None:
    rules = asked(arc_easy__acc=">= baseline - 0.05", holdout__loss="< 1.6")
    made = gates(rules, inputs, tmp_path, QUIET)
    assert made.passed == ("arc_easy.acc is 0.4800: >= baseline - 0.05 = 0.4500", "holdout.loss is 1.5000: < 1.6")


def test_every_gate_that_is_missed_is_named_with_by_how_much(inputs: GatesInputs, tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        gates(asked(arc_easy__acc=">= baseline", holdout__loss="<= 1.25"), inputs, tmp_path, QUIET)
    assert caught.value.exit_code == 3
    assert caught.value.missed == (
        "arc_easy.acc is 0.4800, not >= baseline = 0.5000: misses it by 0.0200",
        "holdout.loss is 1.5000, not <= 1.25: misses it by 0.2500",
    )
    assert not (tmp_path / "gates.json").exists()


def test_a_gate_may_ask_for_the_judges_verdict(inputs: GatesInputs, tmp_path: Path) -> None:
    win_rate = Score(task="judge", metric="win_rate", value=0.6, stderr=0.1, num_samples=9, higher_is_better=True)
    counts = {"num_wins": 5, "num_ties": 1, "num_losses": 3, "num_equal": 0, "num_disagreements": 0}
    judge = JudgeReport(root=tmp_path, model="m", score=win_rate, num_unparsable=0, **counts)
    judged = replace(inputs, judges=(judge,))
    assert gates(asked(judge__win_rate=">= 0.5"), judged, tmp_path, QUIET).passed
    with pytest.raises(GateError, match=r"judge\.win_rate is 0\.6000, not >= 0\.7"):
        gates(asked(judge__win_rate=">= 0.7"), judged, tmp_path, QUIET)


def test_a_score_that_is_not_there_fails_and_the_nearest_is_named(inputs: GatesInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"there is no score arc_easy\.acc_norm") as caught:
        gates(asked(arc_easy__acc_norm=">= 0.1"), inputs, tmp_path, QUIET)
    assert "arc_easy.acc" in str(caught.value.fix)


def test_a_baseline_on_other_data_is_not_compared_with(inputs: GatesInputs, tmp_path: Path) -> None:
    changed = replace(inputs, report=report(tmp_path, 0.9, 1.0, arc_easy="other"))
    for rule in ("> baseline", "improvement > 0"):
        with pytest.raises(StageError, match="the data of arc_easy changed between"):
            gates(asked(arc_easy__acc=rule), changed, tmp_path, QUIET)
    with pytest.raises(StageError, match="the data of arc_easy changed between"):
        gates(EvalConfig(no_regression=["arc_easy"]), changed, tmp_path, QUIET)
    assert gates(asked(holdout__loss="< baseline", arc_easy__acc="> 0.5"), changed, tmp_path, QUIET).passed


def test_a_group_is_not_compared_with_a_baseline_of_which_a_task_had_other_data(
    inputs: GatesInputs, tmp_path: Path
) -> None:
    def grouped(one: EvalReport, value: float, digest: str) -> EvalReport:
        score = replace(one.scores[0], task="ai2_arc", value=value)
        return replace(one, scores=(score,), task_data={"arc_easy": digest, "arc_challenge": "c"})

    assert inputs.baseline is not None
    changed = replace(inputs, baseline=grouped(inputs.baseline, 0.5, "d"), report=grouped(inputs.report, 0.9, "other"))
    append(tmp_path, [SampleValues(score="ai2_arc.acc", units=["arc_easy", "arc_challenge"], sums=[0.9, 0.9])])
    with pytest.raises(StageError, match=r"ai2_arc\.acc can't be held .*: the data of arc_easy changed between"):
        gates(asked(ai2_arc__acc="> baseline"), changed, tmp_path, QUIET)
    assert gates(asked(ai2_arc__acc="> 0.5"), changed, tmp_path, QUIET).passed


def test_an_improvement_is_the_end_of_the_interval_on_the_side_of_worse(inputs: GatesInputs, tmp_path: Path) -> None:
    rules = asked(holdout__loss="improvement >= 0.35 and < 1.6", arc_easy__acc="improvement > -0.05")
    assert gates(rules, inputs, tmp_path, QUIET).passed == (
        "holdout.loss improves by +0.4000 at least: improvement >= 0.35",
        "holdout.loss is 1.5000: < 1.6",
        "arc_easy.acc improves by -0.0300 at least: improvement > -0.05",
    )
    with pytest.raises(GateError) as caught:
        gates(asked(holdout__loss="improvement >= 0.5", arc_easy__acc="improvement > 0"), inputs, tmp_path, QUIET)
    assert caught.value.missed == (
        "holdout.loss improves by +0.4000 at least, not improvement >= 0.5: misses it by 0.1000",
        "arc_easy.acc improves by -0.0300 at least, not improvement > 0: misses it by 0.0300",
    )


@pytest.mark.parametrize("name", ["arc_easy", "arc_easy.acc"])
def test_a_task_that_is_clearly_worse_is_a_regression_and_one_in_doubt_is_not(
    name: str, inputs: GatesInputs, tmp_path: Path
) -> None:
    asked_for = EvalConfig(no_regression=[name, "holdout"])
    assert gates(asked_for, inputs, tmp_path, QUIET).passed == (
        "arc_easy.acc: -0.0100, no difference seen (±0.0200); eval.no_regression",
        "holdout.loss: -0.5000, better (-0.6000 to -0.4000); eval.no_regression",
    )
    worse = replace(inputs, comparison=compared(inputs.report, acc=accuracy(-0.03, -0.01, Verdict.worse)))
    with pytest.raises(GateError) as caught:
        gates(EvalConfig(no_regression=[name]), worse, tmp_path, QUIET)
    assert caught.value.missed == ("arc_easy.acc: -0.0200, worse (-0.0300 to -0.0100); eval.no_regression",)


@pytest.mark.parametrize("settings", [{"gates": {"arc_easy.acc": "improvement > 0"}}, {"no_regression": ["arc_easy"]}])
def test_a_gate_that_needs_an_error_fails_where_there_is_none(
    settings: dict[str, Any], inputs: GatesInputs, tmp_path: Path
) -> None:
    untested = replace(accuracy(0, 0, Verdict.none), interval=None, corrected=None, reason="one sample has no error")
    with pytest.raises(StageError, match=r"no verdict on arc_easy\.acc: one sample has no error"):
        gates(
            EvalConfig(**settings), replace(inputs, comparison=compared(inputs.report, acc=untested)), tmp_path, QUIET
        )


def test_a_regression_of_what_is_not_scored_is_refused(inputs: GatesInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="there is no score of arc_hard"):
        gates(EvalConfig(no_regression=["arc_hard"]), inputs, tmp_path, QUIET)
