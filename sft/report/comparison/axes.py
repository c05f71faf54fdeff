"""Where a value lies on an axis, and what is written along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOG_RATIO = 20.0
_MOST_NAMES = 8
_LONGEST_NUMBER = 8
_NUM_TICKS = 5
_LEAST_ROOM = 0.02
"""Part of a value on either side, so that what is the same but for noise looks the same."""


@dataclass(frozen=True)
class Axis:
    """A mapping to 0..1: of numbers, or of names at equal distances.

    Attributes:
        low: Least number.
        high: Largest number.
        is_log: Whether equal ratios have equal distances.
        names: Of an axis of names, in order.
    """

    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    names: tuple[str, ...] = ()

    def place(self, value: float | str) -> float:
        """Return the position of a value, 0 to 1."""
        if self.names:
            return (self.names.index(str(value)) + 0.5) / len(self.names)
        low, high, number = self._scaled(self.low), self._scaled(self.high), self._scaled(float(value))
        return 0.5 if high == low else (number - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and texts."""
        if self.names:
            return [(self.place(name), name) for name in self.names]
        values = _log_ticks(self.low, self.high) if self.is_log else _linear_ticks(self.low, self.high)
        return [(self.place(value), number(value)) for value in values]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def of_numbers(values: Sequence[float], *, margin: float = 0.06, may_be_log: bool = True) -> Axis:
    """Return an axis that holds all of these numbers, with some room; logarithmic if they differ by much and may be."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and high / low >= _LOG_RATIO:
        room = (high / low) ** margin
        return Axis(low / room, high * room, is_log=True)
    room = max((high - low) * margin, abs(high) * _LEAST_ROOM if high - low < abs(high) * _LEAST_ROOM else 0.0)
    if low == high and not room:
        room = 1.0
    return Axis(low - room if low < 0 or low - room > 0 else 0.0, high + room)


def of_texts(texts: Sequence[str]) -> Axis:
    """Return an axis of settings: a few as names, in numeric order if they are numbers; many numbers as numbers."""
    distinct = list(dict.fromkeys(texts))
    if not all(is_number(text) for text in distinct):
        return Axis(names=tuple(distinct))
    if len(distinct) <= _MOST_NAMES and max(map(len, distinct)) <= _LONGEST_NUMBER:
        return Axis(names=tuple(sorted(distinct, key=float)))
    return of_numbers([float(text) for text in distinct], margin=0.0)


def is_number(text: str) -> bool:
    """Return whether a setting's value is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def number(value: float) -> str:
    """Return a number as short as it may be."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _linear_ticks(low: float, high: float) -> list[float]:
    if high <= low:
        return [low]
    raw = (high - low) / _NUM_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(place * step, 12) for place in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 3 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low <= value <= high] or [low, high]
