"""The gates stage: scores in; out comes leave to register the model, or an error that says what it misses."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from sft.artifacts import EvalReport, GateReport, JudgeReport
from sft.config.schema import EvalConfig
from sft.errors import GateError, StageError
from sft.files import write_json
from sft.progress import Progress
from sft.scores import Score, parse_gate


@dataclass(frozen=True, kw_only=True)
class GatesInputs:
    """What the gates stage takes.

    Attributes:
        baseline: Scores of the base model; None where it wasn't scored.
        report: Scores of the tuned model.
        judge: How it compares with the base model; None where there is no judge.
    """

    baseline: EvalReport | None
    report: EvalReport
    judge: JudgeReport | None = None

    def score(self, name: str) -> Score | None:
        """Return the score named ``task.metric``, or None."""
        if self.judge and self.judge.score.name == name:
            return self.judge.score
        return self.report.score(name)


def gates(cfg: EvalConfig, inputs: GatesInputs, out: Path, progress: Progress) -> GateReport:
    """Hold each gate against its score.

    Args:
        cfg: The evaluation settings.
        inputs: The scores.
        out: Private staging folder.
        progress: Told of each gate.

    Raises:
        GateError: A gate is missed.
        StageError: A score does not exist, or was taken on other data than the base model's.
    """
    passed, missed = [], []
    for name, rule in cfg.gates.items():
        gate = parse_gate(rule)
        score = inputs.score(name)
        if score is None:
            raise StageError(f"eval.gates: there is no score {name}", fix=_existing(name, inputs.report))
        before = inputs.baseline.score(name) if inputs.baseline else None
        if gate.from_baseline and inputs.baseline and score.task in inputs.report.other_data(inputs.baseline):
            raise StageError(
                f"eval.gates: {name} can't be held against the base model's: the data of {score.task} changed between",
                fix=f"score the base model again: rm -r {inputs.baseline.root}",
            )
        limit = gate.limit(before.value if before else None)
        shown = f"{name} is {score.value:.4f}"
        asked = gate.rule if not gate.from_baseline else f"{gate.rule} = {limit:.4f}"
        if gate.holds(score.value, limit):
            passed.append(f"{shown}: {asked}")
        else:
            missed.append(f"{shown}, not {asked}: misses it by {abs(score.value - limit):.4f}")
        progress.say(f"  {(passed if gate.holds(score.value, limit) else missed)[-1]}")
    if missed:
        raise GateError(missed)
    write_json(out / "gates.json", {"passed": passed})
    return GateReport(root=out, passed=tuple(passed))


def _existing(name: str, report: EvalReport) -> str:
    names = [score.name for score in report.scores]
    return f"one of {', '.join(difflib.get_close_matches(name, names, n=3, cutoff=0.0))}"
