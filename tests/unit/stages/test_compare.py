"""Two evaluations become verdicts, each with what it rests on, and none where nothing can be said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from sft import sample_values
from sft.artifacts import EvalReport, ModelComparison
from sft.config.schema import EvalConfig
from sft.progress import Progress
from sft.sample_values import SampleValues
from sft.scores import Score, Verdict
from sft.stages.compare import CompareInputs, compare

NUM = 200


def report(root: Path, scores: Mapping[str, Sequence[float] | None], **data: str) -> EvalReport:
    """An evaluation with the given values of each score; None = a score that is no mean."""
    root.mkdir()
    kept = [
        SampleValues(score=name, units=list(range(len(values))), sums=[float(value) for value in values])
        for name, values in scores.items()
        if values is not None
    ]
    sample_values.append(root, kept)
    made = []
    for name, values in scores.items():
        task, _, metric = name.partition(".")
        facts = {"task": task, "metric": metric, "higher_is_better": metric != "loss", "stderr": None}
        made.append(Score(value=30.0 if values is None else float(np.mean(values)), num_samples=NUM, **facts))
    return EvalReport(root=root, model_digest=root.name, scores=tuple(made), task_data=data)


def compared(tmp_path: Path, base: EvalReport, tuned: EvalReport, confidence: float = 0.95) -> ModelComparison:
    out = tmp_path / "out"
    out.mkdir()
    cfg = EvalConfig(confidence=confidence)
    return compare(cfg, CompareInputs(baseline=base, report=tuned), out, Progress(quiet=True))


def answers(seed: int, better: float) -> tuple[list[float], list[float]]:
    """What two models got right: the second has `better` more of the hard half."""
    random = np.random.default_rng(seed)
    before = (np.arange(NUM) < NUM / 2).astype(float)
    flips = random.random(NUM) < np.where(before, 0.05, 0.05 + 2 * better)
    return list(before), list(np.where(flips, 1 - before, before))


def test_what_is_seen_and_what_is_not_is_told_apart(tmp_path: Path) -> None:
    loss = [2.0 + 0.1 * math.sin(place) for place in range(NUM)]
    clear, doubtful = answers(0, 0.2), answers(1, 0.0)
    base = report(tmp_path / "base", {"holdout.loss": loss, "a.acc": clear[0], "b.acc": doubtful[0], "b.bleu": None})
    worse = [value + 0.2 + 0.1 * math.cos(5 * place) for place, value in enumerate(loss)]
    tuned = report(tmp_path / "tuned", {"holdout.loss": worse, "a.acc": clear[1], "b.acc": doubtful[1], "b.bleu": None})
    made = compared(tmp_path, base, tuned)
    assert {change.score: change.verdict for change in made.changes} == {
        "holdout.loss": Verdict.worse,
        "a.acc": Verdict.better,
        "b.acc": Verdict.no_difference,
        "b.bleu": Verdict.none,
    }
    assert made.num_tests == 3
    bleu = made.change("b.bleu")
    assert bleu is not None
    assert bleu.reason == "no mean over samples, so it has no paired error"
    written = json.loads((made.root / "comparison.json").read_text())
    assert [change["verdict"] for change in written["changes"]] == [change.verdict.value for change in made.changes]
    assert made.samples_file.read_bytes() == b""


def test_one_model_twice_differs_nowhere(tmp_path: Path) -> None:
    scores = {"holdout.loss": [1.0, 2.0, 3.0], "a.acc": [0.0, 1.0, 0.0]}
    made = compared(tmp_path, report(tmp_path / "base", scores), report(tmp_path / "tuned", scores))
    assert {str(change) for change in made.changes} == {"+0.0000, no difference seen (no sample differs)"}


def test_a_difference_that_one_score_shows_alone_may_not_be_seen_among_many(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    noise = {f"t{number}.m": random.normal(size=NUM) for number in range(8)}
    shift = random.normal(size=NUM)
    shift += 2.2 / math.sqrt(NUM) - shift.mean()  # p is about 0.03
    base = {name: np.zeros(NUM) for name in [*noise, "one.m"]}
    alone = compared(
        tmp_path, report(tmp_path / "base", {"one.m": base["one.m"]}), report(tmp_path / "tuned", {"one.m": shift})
    )
    assert [change.verdict for change in alone.changes] == [Verdict.better]
    (tmp_path / "among").mkdir()
    among = compared(
        tmp_path / "among", report(tmp_path / "all", base), report(tmp_path / "many", {**noise, "one.m": shift})
    )
    one = among.change("one.m")
    assert one is not None
    assert one.interval is not None
    assert one.interval[0] > 0
    assert (one.verdict, among.num_tests) == (Verdict.no_difference, 9)
    assert among.explained == "9 paired tests, corrected by Holm's method, 0.95 confidence"


def test_scores_with_one_sample_or_on_other_data_have_no_verdict(tmp_path: Path) -> None:
    base = report(tmp_path / "base", {"one.acc": [0.0], "a.acc": [0.0, 1.0] * 9}, a="old")
    tuned = report(tmp_path / "tuned", {"one.acc": [1.0], "a.acc": [1.0, 1.0] * 9}, a="new")
    made = compared(tmp_path, base, tuned)
    assert [str(change) for change in made.changes] == [
        "+1.0000, no verdict (one sample has no error)",
        "+0.5000, no verdict (its data changed since the base model was scored)",
    ]
    assert (made.num_tests, made.explained) == (0, "no score could be tested")


def test_a_group_whose_tasks_have_other_data_has_no_verdict(tmp_path: Path) -> None:
    reports = []
    for name, data in (("base", "old"), ("tuned", "new")):
        made = report(tmp_path / name, {"group.acc": None}, sub=data)
        sample_values.append(made.root, [SampleValues(score="group.acc", units=["sub", "other"], sums=[0.1, 0.2])])
        reports.append(made)
    [change] = compared(tmp_path, *reports).changes
    assert change.reason == "its data changed since the base model was scored"


def test_the_confidence_is_the_recipes(tmp_path: Path) -> None:
    before, after = answers(5, 0.07)
    base, tuned = report(tmp_path / "base", {"a.acc": before}), report(tmp_path / "tuned", {"a.acc": after})
    [change] = compared(tmp_path, base, tuned, confidence=0.8).changes
    (tmp_path / "sure").mkdir()
    [sure] = compared(tmp_path / "sure", base, tuned, confidence=0.999).changes
    assert change.p_value == sure.p_value
    assert 0.001 < (change.p_value or 0) < 0.2, "the seed shows nothing"
    assert (change.verdict, sure.verdict) == (Verdict.better, Verdict.no_difference)


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_loss_and_perplexity_are_one_test_and_one_verdict(metric: str, tmp_path: Path) -> None:
    reports = []
    for name, shift in (("base", 0.0), ("tuned", -0.3)):
        losses = [1.0 + 0.1 * math.sin(place) + shift * (1 + 0.1 * math.cos(place)) for place in range(30)]
        made = report(tmp_path / name, {"holdout.loss": losses, "holdout.perplexity": None})
        perplexity = SampleValues(score="holdout.perplexity", units=list(range(30)), sums=losses, is_exponential=True)
        sample_values.append(made.root, [perplexity])
        reports.append(made)
    made_of = compared(tmp_path, *reports)
    assert made_of.num_tests == 1
    change = made_of.change(f"holdout.{metric}")
    assert change is not None
    assert change.p_value == made_of.changes[0].p_value


def test_a_perplexity_whose_interval_no_number_holds_has_no_verdict_and_its_loss_has(tmp_path: Path) -> None:
    reports = []
    for name, losses in (("base", [5.0, 6.0]), ("tuned", [3.0, 5.0])):
        made = report(tmp_path / name, {"holdout.loss": losses, "holdout.perplexity": None})
        units: list[int | str] = [0, 1]
        perplexity = SampleValues(score="holdout.perplexity", units=units, sums=losses, is_exponential=True)
        sample_values.append(made.root, [perplexity])
        reports.append(made)
    loss, perplexity_change = compared(tmp_path, *reports, confidence=0.9999).changes
    assert loss.verdict is Verdict.no_difference
    assert (perplexity_change.verdict, perplexity_change.interval) == (Verdict.none, None)
    assert "largest number" in perplexity_change.reason
