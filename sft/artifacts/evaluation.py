"""How good a model is: its scores, how they differ from the base model's, a judge's view, its gates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sft.artifacts.base import Artifact
from sft.scores import Change, Score, format_score


@dataclass(frozen=True, kw_only=True)
class EvalReport(Artifact):
    """Scores of one model: ``report.json``, lm-eval's ``results_*.json`` and ``samples_*.jsonl``.

    Attributes:
        model_digest: Digest of the artifact that holds the scored model.
        scores: Every number, tasks in the recipe's order, then the held-out split.
        task_versions: lm-eval's version of each task.
        task_data: sha256 of the documents on which each task, and the held-out split, was scored.
        chat_template_sha256: Of the scored model's.
        holdout_sample: Which held-out samples were scored, in words; empty where all were.
        held_out_tokens: Tokens over which the loss of a held-out set is a mean. Another tokenizer makes other ones.
        dtype: Type in which the weights were used; empty where a server knows.
        differs_from_saved: What was scored otherwise than the model is saved, a line each.
        notes: What a person should know of how the scores came about, a line each: what was cut, what did nothing.
    """

    model_digest: str
    scores: tuple[Score, ...]
    task_versions: dict[str, str] = field(default_factory=dict)
    task_data: dict[str, str] = field(default_factory=dict)
    chat_template_sha256: str = ""
    holdout_sample: str = ""
    held_out_tokens: dict[str, int] = field(default_factory=dict)
    dtype: str = ""
    differs_from_saved: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def score(self, name: str) -> Score | None:
        """Return the score named ``task.metric``, or None."""
        return next((s for s in self.scores if s.name == name), None)

    @property
    def names(self) -> list[str]:
        """Of the scores."""
        return [score.name for score in self.scores]

    def notes_beside(self, base: EvalReport | None) -> list[str]:
        """Return its notes, and those of the base model that it is compared with."""
        return [*self.notes, *(f"base model: {note}" for note in (base.notes if base else ()))]

    def other_data(self, other: EvalReport) -> list[str]:
        """Return the tasks that `other` was scored on with other documents, so that their scores don't compare."""
        return [name for name, digest in self.task_data.items() if other.task_data.get(name, digest) != digest]


@dataclass(frozen=True, kw_only=True)
class JudgeReport(Artifact):
    """How a judge compares the tuned model's answers to a held-out set with the base model's: ``judge.json``.

    ``judgments.jsonl`` holds each pair with what the judge said of it, and its value: 1, 0.5 or 0.

    Attributes:
        model: Who judged, as the recipe calls it.
        score: ``judge.win_rate``, of a named set ``judge.NAME.win_rate``: wins and half of the ties, of all pairs.
        num_wins: Pairs in which both judgments prefer the tuned model's answer.
        num_ties: All pairs that are neither won nor lost, those below included.
        num_losses: Pairs in which both judgments prefer the base model's answer.
        num_equal: Pairs of the same text, which nobody was asked about.
        num_disagreements: Pairs whose judgments differ once the answers are swapped.
        num_unparsable: Judgments, two a pair, that end without a verdict.
        answered_by: What the server says that answered.
    """

    model: str
    score: Score
    num_wins: int
    num_ties: int
    num_losses: int
    num_equal: int
    num_disagreements: int
    num_unparsable: int
    answered_by: tuple[str, ...] = ()

    def __str__(self) -> str:
        unparsable = "1 judgment" if self.num_unparsable == 1 else f"{self.num_unparsable} judgments"
        rate = format_score(self.score.value, self.score.stderr)
        return (
            f"{self.score.name} {rate} by {self.model}: {self.num_wins} won, {self.num_ties} tied, {self.num_losses} "
            f"lost; of the ties, {self.num_equal} are equal texts and {self.num_disagreements} change with the order; "
            f"{unparsable} without a verdict"
        )


@dataclass(frozen=True, kw_only=True)
class ModelComparison(Artifact):
    """How the tuned model's scores differ from the base model's: ``comparison.json``, and the most changed samples.

    Attributes:
        confidence: Of the intervals.
        num_tests: Scores that were tested, for which verdicts are corrected.
        changes: One for each score that both models have.
    """

    confidence: float
    num_tests: int
    changes: tuple[Change, ...]

    @property
    def samples_file(self) -> Path:
        """``samples_changed.jsonl``: a `sft.stages.changed_samples.ChangedSample` per line."""
        return self.root / "samples_changed.jsonl"

    @property
    def explained(self) -> str:
        """What the verdicts rest on, in words."""
        if not self.num_tests:
            return "no score could be tested"
        of = "1 paired test" if self.num_tests == 1 else f"{self.num_tests} paired tests, corrected by Holm's method"
        return f"{of}, {self.confidence:.6g} confidence"

    def change(self, name: str) -> Change | None:
        """Return the change of the score named ``task.metric``, or None."""
        return next((change for change in self.changes if change.score == name), None)


@dataclass(frozen=True, kw_only=True)
class GateReport(Artifact):
    """That a model passed its gates: ``gates.json``.

    Attributes:
        passed: A line for each gate.
    """

    passed: tuple[str, ...]
