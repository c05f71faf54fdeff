"""Rules for one value: a number between bounds, a text that passes checks, and lists and mappings of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sft.errors import Problem
from sft.known_secrets import is_secret_name
from sft.redaction import redact

LARGEST_INT = 2**63 - 1
"""Every store, registry and library takes a whole number up to here."""


class Rule(Protocol):
    """What a value must be."""

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        """Yield what is wrong with a value of the setting `key`."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number between bounds; a whole one fits into 64 bits, whatever its bounds."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        if isinstance(value, float) and not math.isfinite(value):
            yield _problem(key, value, "must be a finite number")
        elif self._is_outside(value):
            yield _problem(key, value, f"must {self}")
        elif abs(value) > LARGEST_INT and isinstance(value, int):
            yield _problem(key, value, f"must be at most {LARGEST_INT}")

    def _is_outside(self, value: float) -> bool:
        return (
            (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        told = [f"{how} {bound}" for how, bound in bounds.items() if bound is not None]
        return "not be negative" if told == ["at least 0"] else f"be {' and '.join(told)}"


TextCheck = Callable[[str], str | None]
"""Returns the rule that a text breaks; None where it breaks none."""


class Text:
    """Text that passes each of some checks; whatever they are, it is Unicode without NUL.

    Args:
        checks: The first one that fails is told.
    """

    def __init__(self, *checks: TextCheck) -> None:
        self._checks = (_is_unicode, _has_no_nul, *checks)

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        broken = (check(value) for check in self._checks) if isinstance(value, str) else iter(["must be text"])
        if rule := next(filter(None, broken), None):
            yield _problem(key, value, rule)


def _is_unicode(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return None


def _has_no_nul(text: str) -> str | None:
    return "must not hold the character NUL" if "\0" in text else None


@dataclass(frozen=True)
class Each:
    """A list, each item of which keeps a rule."""

    item: Rule

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        for place, item in enumerate(value):
            yield from self.item.problems(f"{key}.{place}" if isinstance(item, dict) else key, item)


@dataclass(frozen=True)
class Pairs:
    """A mapping, each key and value of which keeps a rule."""

    name: Rule
    value: Rule

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        for name, item in value.items():
            if not isinstance(name, str):
                yield _problem(key, name, "must have texts as keys")
                continue
            yield from self.name.problems(key, name)
            for problem in self.value.problems(f"{key}.{name}", item):
                yield dataclasses.replace(problem, value=None) if is_secret_name(name) else problem


@dataclass(frozen=True)
class Groups:
    """A mapping of names to groups of settings; the settings of a group have rules of their own."""

    name: Rule

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        for name, group in value.items():
            yield from self.name.problems(key, name)
            if not dataclasses.is_dataclass(group):
                yield _problem(f"{key}.{name}", group, "must be a group of settings")


@dataclass(frozen=True)
class Entries:
    """A mapping with keys that are known."""

    rules: Mapping[str, Rule]

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        for name, item in value.items():
            if name in self.rules:
                yield from self.rules[name].problems(f"{key}.{name}", item)
            else:
                yield _problem(key, name, f"must be made of {', '.join(self.rules)}")


class Tree:
    """What JSON can hold, as it is passed on to a library: a mapping of texts to anything that is not NaN."""

    def problems(self, key: str, value: Any) -> Iterator[Problem]:
        match value:
            case None | bool():
                return
            case dict():
                yield from Pairs(Text(), self).problems(key, value)
            case list():
                yield from Each(self).problems(key, value)
            case int() | float():
                yield from Number().problems(key, value)
            case _:
                yield from Text().problems(key, value)


def _problem(key: str, value: Any, rule: str) -> Problem:
    is_endless = isinstance(value, int) and value.bit_length() > 10_000  # Python writes no such number out
    return Problem(key=key, value="(an endless number)" if is_endless else redact(str(value)), rule=rule)
