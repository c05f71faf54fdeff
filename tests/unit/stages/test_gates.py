"""Gates let a model pass or keep it back, and say by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sft.artifacts import EvalReport, JudgeReport
from sft.config.schema import EvalConfig
from sft.errors import GateError, StageError
from sft.progress import Progress
from sft.scores import Score
from sft.stages.gates import GatesInputs, gates

QUIET = Progress(quiet=True)


def report(root: Path, accuracy: float, loss: float, **changes: str) -> EvalReport:
    facts = {"stderr": 0.01, "num_samples": 100}
    return EvalReport(
        root=root,
        model_digest="m",
        scores=(
            Score(task="arc_easy", metric="acc", value=accuracy, higher_is_better=True, **facts),
            Score(task="holdout", metric="loss", value=loss, higher_is_better=False, **facts),
        ),
        task_data={"arc_easy": "d"} | changes,
    )


@pytest.fixture
def inputs(tmp_path: Path) -> GatesInputs:
    return GatesInputs(baseline=report(tmp_path / "base", 0.5, 2.0), report=report(tmp_path, 0.48, 1.5))


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
    assert list(tmp_path.iterdir()) == []


def test_a_gate_may_ask_for_the_judges_verdict(inputs: GatesInputs, tmp_path: Path) -> None:
    win_rate = Score(task="judge", metric="win_rate", value=0.6, stderr=0.1, num_samples=9, higher_is_better=True)
    counts = {"num_wins": 5, "num_ties": 1, "num_losses": 3, "num_equal": 0, "num_disagreements": 0}
    judged = replace(inputs, judge=JudgeReport(root=tmp_path, model="m", score=win_rate, num_unparsable=0, **counts))
    assert gates(asked(judge__win_rate=">= 0.5"), judged, tmp_path, QUIET).passed
    with pytest.raises(GateError, match=r"judge\.win_rate is 0\.6000, not >= 0\.7"):
        gates(asked(judge__win_rate=">= 0.7"), judged, tmp_path, QUIET)


def test_a_score_that_is_not_there_fails_and_the_nearest_is_named(inputs: GatesInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"there is no score arc_easy\.acc_norm") as caught:
        gates(asked(arc_easy__acc_norm=">= 0.1"), inputs, tmp_path, QUIET)
    assert "arc_easy.acc" in str(caught.value.fix)


def test_a_baseline_on_other_data_is_not_compared_with(inputs: GatesInputs, tmp_path: Path) -> None:
    changed = replace(inputs, report=report(tmp_path, 0.9, 1.0, arc_easy="other"))
    with pytest.raises(StageError, match="the data of arc_easy changed between"):
        gates(asked(arc_easy__acc="> baseline"), changed, tmp_path, QUIET)
    assert gates(asked(holdout__loss="< baseline", arc_easy__acc="> 0.5"), changed, tmp_path, QUIET).passed
