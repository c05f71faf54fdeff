"""The table of runs that are compared: its rows, their scores, and the groups of runs that compare at all."""

from __future__ import annotations

import msgspec

from sft.report.comparison.groups import Group


class Cell(msgspec.Struct, kw_only=True):
    """A score of a tuned model.

    Attributes:
        base: The base model's; None where it was not scored.
        verdict: What the run's comparison of both says; None where there is none.
    """

    value: float
    stderr: float | None
    base: float | None
    higher_is_better: bool
    verdict: str | None = None

    @property
    def change(self) -> float | None:
        """Tuned minus base."""
        return None if self.base is None else self.value - self.base


class Row(msgspec.Struct, kw_only=True):
    """A run.

    Attributes:
        number: Of the point in its sweep; elsewhere counted from the oldest.
        values: What varied.
        reason: Why it failed or was left out.
        group: Of the runs that it compares with; 0 where it has no objective.
        is_best: Whether it is the first of its group.
        objective: What rows are sorted by.
        train_loss: Of the last step.
        tokens_per_second: Over the whole training, without padding and without saving.
        memory_bytes: Largest peak of any rank in training.
        seconds: Of training and scoring the tuned model; not of what other runs share.
        curve: Step and loss.
    """

    number: int
    run: str
    folder: str
    values: dict[str, str]
    status: str
    reason: str | None = None
    group: int = 0
    is_best: bool = False
    objective: float | None = None
    train_loss: float | None = None
    scores: dict[str, Cell] = {}
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    train_seconds: float | None = None
    seconds: float | None = None
    curve: list[tuple[int, float]] = []


class Comparison(msgspec.Struct, kw_only=True):
    """Runs by group, the best of each first.

    Attributes:
        title: What they are.
        keys: What varied.
        objective: The score that they are sorted by.
        groups: Of runs that compare: one, unless the evaluations differ.
        is_sweep: Whether they are the points of one sweep; else the name of its folder says which run is meant.
        skipped: What was named and has no run.
        unreadable: Records in a run root that this version can't read.
    """

    title: str
    is_sweep: bool
    objective: str
    higher_is_better: bool
    keys: list[str]
    rows: list[Row]
    groups: list[Group] = []
    skipped: list[str] = []
    unreadable: list[str] = []

    def of_group(self, group: Group) -> Comparison:
        """Return the runs of one group alone; with the only one are those that have no objective."""
        rows = self.rows if len(self.groups) == 1 else [row for row in self.rows if row.group == group.number]
        return msgspec.structs.replace(self, rows=rows, groups=[group])

    @property
    def score_names(self) -> list[str]:
        """Return every score of any row, the objective first."""
        names = dict.fromkeys(name for row in self.rows for name in row.scores)
        return sorted(names, key=lambda name: name != self.objective)
