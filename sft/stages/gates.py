"""The gates stage: scores in; out comes leave to register the model, or an error that says what it misses."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft import sample_values
from sft.artifacts import EvalReport, GateReport, JudgeReport, ModelComparison
from sft.config.schema import EvalConfig
from sft.errors import GateError, StageError
from sft.files import write_json
from sft.gate_rules import Gate, GateKind, parse_gates
from sft.progress import Progress
from sft.scores import Change, Score, Verdict

NUMBER_ITSELF = "more samples, another score, or a gate on the number itself: '>= 0.6'"


@dataclass(frozen=True, kw_only=True)
class GatesInputs:
    """What the gates stage takes.

    Attributes:
        baseline: Scores of the base model; None where it wasn't scored.
        report: Scores of the tuned model.
        comparison: How they differ; None where there is no baseline.
        judge: How it compares with the base model; None where there is no judge.
    """

    baseline: EvalReport | None
    report: EvalReport
    comparison: ModelComparison | None
    judges: tuple[JudgeReport, ...] = ()

    def score(self, name: str) -> Score | None:
        """Return the score named ``task.metric``, or None."""
        judged = (judge.score for judge in self.judges if judge.score.name == name)
        return next(judged, None) or self.report.score(name)


@dataclass(frozen=True)
class _Outcome:
    """What became of a gate, in a line."""

    holds: bool
    text: str


def gates(cfg: EvalConfig, inputs: GatesInputs, out: Path, progress: Progress) -> GateReport:
    """Hold each gate against its score.

    All must hold, so none is corrected for the number of them: a model that should be kept back passes them all no more
    often than the one that it should be kept back by (Berger, *Technometrics* 24, 1982).

    Args:
        cfg: The evaluation settings.
        inputs: The scores.
        out: Private staging folder.
        progress: Told of each gate.

    Raises:
        GateError: A gate is missed.
        StageError: A score does not exist, was taken on other data than the base model's, or has no error where one is
            asked for.
    """
    outcomes = [_outcome(name, gate, inputs) for name, rules in cfg.gates.items() for gate in parse_gates(rules)]
    outcomes += [outcome for name in cfg.no_regression for outcome in _no_regression(name, inputs)]
    for outcome in outcomes:
        progress.say(f"  {outcome.text}")
    if missed := [outcome.text for outcome in outcomes if not outcome.holds]:
        raise GateError(missed)
    passed = [outcome.text for outcome in outcomes]
    write_json(out / "gates.json", {"passed": passed})
    return GateReport(root=out, passed=tuple(passed))


def _outcome(name: str, gate: Gate, inputs: GatesInputs) -> _Outcome:
    """Return whether a score passes a gate of `eval.gates`.

    Raises:
        StageError: There is no such score, or it can't be held against the base model's.
    """
    score = inputs.score(name)
    if score is None:
        raise StageError(f"eval.gates: there is no score {name}", fix=existing(name, inputs.report.names))
    if gate.kind is GateKind.improvement:
        return _improvement(gate, _tested("eval.gates", name, inputs))
    before = inputs.baseline.score(name) if inputs.baseline else None
    if gate.needs_baseline:
        _refuse_other_data("eval.gates", score, inputs)
    limit = gate.limit(before.value if before else None)
    shown = f"{name} is {score.value:.4f}"
    asked = gate.rule if gate.kind is GateKind.value else f"{gate.rule} = {limit:.4f}"
    if gate.holds(score.value, limit):
        return _Outcome(True, f"{shown}: {asked}")
    return _Outcome(False, f"{shown}, not {asked}: misses it by {abs(score.value - limit):.4f}")


def _improvement(gate: Gate, change: Change) -> _Outcome:
    least = change.least_improvement
    if least is None:
        raise AssertionError(f"{change.score} was tested and has no interval")
    shown = f"{change.score} improves by {least:+.4f} at least"
    if gate.holds(least, gate.bound):
        return _Outcome(True, f"{shown}: {gate.rule}")
    return _Outcome(False, f"{shown}, not {gate.rule}: misses it by {abs(least - gate.bound):.4f}")


def _no_regression(name: str, inputs: GatesInputs) -> Iterator[_Outcome]:
    """Yield for each score of a task, or for the one that is named, whether it is worse than the base model's.

    Raises:
        StageError: There is none, or none of them has an error.
    """
    key = "eval.no_regression"
    scores = [score for score in inputs.report.scores if name in (score.task, score.name)]
    if not scores:
        raise StageError(f"{key}: there is no score of {name}", fix=existing(name, inputs.report.names))
    _refuse_other_data(key, scores[0], inputs)
    changes = [change for score in scores if (change := _change(score, inputs))]
    if all(change.verdict is Verdict.none for change in changes):
        _tested(key, scores[0].name, inputs)
    for change in changes:
        yield _Outcome(change.verdict is not Verdict.worse, f"{change.score}: {change}; {key}")


def _tested(key: str, name: str, inputs: GatesInputs) -> Change:
    """Return how a score changed.

    Raises:
        StageError: There is no verdict on it.
    """
    score = inputs.report.score(name)
    if score is None:
        raise AssertionError(f"{name} was looked up before")
    _refuse_other_data(key, score, inputs)
    change = _change(score, inputs)
    if change is None:
        raise StageError(f"{key}: the base model has no score {name}", fix="eval.baseline=true")
    if change.verdict is Verdict.none:
        raise StageError(f"{key}: there is no verdict on {name}: {change.reason}", fix=NUMBER_ITSELF)
    return change


def _change(score: Score, inputs: GatesInputs) -> Change | None:
    return inputs.comparison.change(score.name) if inputs.comparison else None


def _refuse_other_data(key: str, score: Score, inputs: GatesInputs) -> None:
    """Raise StageError if the base model was scored on other documents, of a group in any of its tasks."""
    if inputs.baseline is None or not (changed := inputs.report.other_data(inputs.baseline)):
        return
    values = sample_values.read(inputs.report.root).get(score.name)
    if others := [task for task in changed if task == score.task or (values and task in values.units)]:
        data = f"the data of {', '.join(others)} changed between"
        raise StageError(
            f"{key}: {score.name} can't be held against the base model's: {data}",
            fix=f"score the base model again: rm -r {shlex.quote(str(inputs.baseline.root))}",
        )


def existing(name: str, names: Sequence[str]) -> str:
    """Return what a message suggests instead of a score's name."""
    return f"one of {', '.join(difflib.get_close_matches(name, names, n=3, cutoff=0.0))}"
