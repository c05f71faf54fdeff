"""Rows that break a rule, as a person reads them and as ``rejected.jsonl`` keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sft.chat.sample import LEFT_OUT_BY_CHOICE, RULES
from sft.errors import DataError

SHOWN = 10


class Rejected(msgspec.Struct, omit_defaults=True):
    """One line of ``rejected.jsonl``.

    Attributes:
        file: The source's file; for a rule that needs the tokenizer the split's, ``train.jsonl`` or ``eval.jsonl``.
        line: Line or row in it, from 1.
        rule: Code of the rule.
        found: What breaks it.
        row: The row as it was.
        source: Of `dataset.sources`, by name; empty without such.
    """

    file: str
    line: int
    rule: str
    found: str
    row: str
    source: str = ""

    @property
    def is_held_out(self) -> bool:
        """Whether it is a sample of the held-out split, which broke a rule that needs the tokenizer."""
        return self.file.rpartition("/")[2] == "eval.jsonl"

    def __str__(self) -> str:
        of = f"{self.source}: " if self.source else ""
        return f"{of}{self.file}:{self.line}: {self.rule}: {self.found}; {RULES[self.rule]}"


def read_rejected(file: Path) -> Iterator[Rejected]:
    """Read a ``rejected.jsonl``, a row at a time."""
    with file.open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line, type=Rejected)


@dataclass
class Rejections:
    """How many rows broke which rule, and the first of them."""

    by_rule: Counter[str] = field(default_factory=Counter)
    first: list[Rejected] = field(default_factory=list)

    def __len__(self) -> int:
        return self.by_rule.total()

    @property
    def counts(self) -> str:
        """How many rows broke which rule, in words."""
        return ", ".join(f"{count} {rule}" for rule, count in self.by_rule.most_common())

    @property
    def num_errors(self) -> int:
        """Rows that the recipe's own settings don't leave out."""
        return sum(count for rule, count in self.by_rule.items() if rule not in LEFT_OUT_BY_CHOICE)

    def add(self, row: Rejected) -> bytes:
        """Count a row and return its line for ``rejected.jsonl``."""
        self.by_rule[row.rule] += 1
        if len(self.first) < SHOWN:
            self.first.append(row)
        return msgspec.json.encode(row) + b"\n"

    def error(self, num_rows: int, fix: str) -> DataError:
        """Return an error with the count by rule and the first places."""
        shown = "\n".join(f"  {row}" for row in self.first)
        more = f"\n  … and {len(self) - len(self.first)} more" if len(self) > len(self.first) else ""
        return DataError(f"{len(self)} of {num_rows} rows are invalid ({self.counts})\n{shown}{more}", fix=fix)
