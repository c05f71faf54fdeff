"""Owns data that needs no download: ``synthetic://spell-numbers?rows=3000&seed=0``.

Each row asks for the digits of a 5-digit number as words, which a model of a quarter of a million parameters
learns from scratch in under a minute. Multiples of 97 never occur, so that a test can ask for numbers that no training
row holds.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from sft.errors import DataError

SCHEME = "synthetic"
VERSION = 1
"""Increased if the same uri would give other rows."""

HELD_OUT_FACTOR = 97
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LOWEST, _HIGHEST = 10_000, 99_999
_DEFAULTS = {"rows": 3000, "seed": 0}
_MAX_ROWS = 80_000
_NUMBER = re.compile("[0-9]{1,18}")


def spell(number: int) -> str:
    """Return the digits of a number as words: 305 is ``three zero five``."""
    return " ".join(_WORDS[int(digit)] for digit in str(number))


def question(number: int) -> str:
    """Return the text of a row's user turn."""
    return f"Spell out {number}."


def write(uri: str, target: Path) -> None:
    """Write the rows of a synthetic uri as chat JSON Lines.

    Raises:
        DataError: The uri names no such data, or a parameter it doesn't have.
    """
    rows, seed = _parameters(uri)
    allowed = [number for number in range(_LOWEST, _HIGHEST + 1) if number % HELD_OUT_FACTOR]
    with target.open("w", encoding="utf-8") as file:
        for number in random.Random(seed).sample(allowed, rows):
            turns = (("user", question(number)), ("assistant", spell(number)))
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def _parameters(uri: str) -> tuple[int, int]:
    parts = urlsplit(uri)
    if parts.netloc != "spell-numbers":
        raise DataError(
            f"dataset.uri={uri}: no such synthetic data", fix=f"set it to {SCHEME}://spell-numbers?rows=3000&seed=0"
        )
    query = dict(parse_qsl(parts.query))
    values = {name: query.pop(name, str(default)) for name, default in _DEFAULTS.items()}
    if query or not all(_NUMBER.fullmatch(value) for value in values.values()):
        raise DataError(f"dataset.uri={uri}: takes only rows and seed, both whole numbers")
    if not 1 <= int(values["rows"]) <= _MAX_ROWS:
        raise DataError(f"dataset.uri={uri}: rows must be between 1 and {_MAX_ROWS}")
    return int(values["rows"]), int(values["seed"])
