"""Comparisons of invented runs, for tests of tables and pages.

`comparison` returns any number of runs over one to three settings, with scores, costs and loss curves that are the same
each time; `row` returns one of them. Nothing was trained, and no file is read: comparisons of recorded runs are tested
in ``tests/unit/report/comparison/test_rows.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from sft.report.comparison.groups import Group
from sft.report.comparison.table import Cell, Comparison, Row

SETTINGS = {
    "training.learning_rate": ["0.001", "0.003", "0.01", "0.0003"],
    "training.num_epochs": ["1", "2", "4"],
    "training.fsdp.sharding_strategy": ["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD"],
}
_SHAPES = {1: (40,), 2: (2, 3), 3: (4, 3, 4)}


def comparison(num_runs: int, num_keys: int) -> Comparison:
    """Return `num_runs` runs over `num_keys` settings, the first one the best."""
    keys = list(SETTINGS)[:num_keys]
    grid = itertools.product(*(SETTINGS[key][:size] for key, size in zip(keys, _SHAPES[num_keys], strict=True)))
    values = list(itertools.islice(itertools.cycle(grid), num_runs))
    rows = [row(number, dict(zip(keys, one, strict=True))) for number, one in enumerate(values, 1)]
    rows[0].is_best = True
    return Comparison(
        title="numbers",
        is_sweep=True,
        objective="holdout.loss",
        higher_is_better=False,
        keys=keys,
        rows=rows,
        groups=[Group(number=1, size=num_runs, differs={})],
    )


def row(number: int, values: Mapping[str, str], status: str = "done", reason: str | None = None) -> Row:
    """Return a run; the higher its number, the worse its loss."""
    if status != "done":
        return Row(number=number, run=f"r-{number}", folder="", values=dict(values), status=status, reason=reason)
    loss = 0.4 + 0.1 * number
    return Row(
        number=number,
        run=f"r-{number}",
        folder=f"runs/r-{number}",
        values=dict(values),
        status=status,
        group=1,
        objective=loss,
        train_loss=loss + 0.1,
        scores={
            "holdout.loss": Cell(value=loss, stderr=0.01, base=2.0, higher_is_better=False, verdict="better"),
            "arc_easy.acc": Cell(
                value=0.4 - 0.01 * (number - 1), stderr=0.02, base=0.25, higher_is_better=True, verdict="better"
            ),
        },
        tokens_per_second=1200.0 + 300 * math.sin(number - 1),
        memory_bytes=3 * 2**29 + number % 7 * 2**27 - 2**27,
        train_seconds=60.0,
        seconds=90.0 + 40 * math.sin(3 * (number - 1)),
        curve=[(step, loss + 3 * math.exp(-step / (10 + number))) for step in range(1, 61)],
    )
