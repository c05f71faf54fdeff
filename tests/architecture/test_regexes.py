"""No pattern of ours takes long on any text: its time grows with the text, not with the square of it."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator

import pytest

import sft

NUM_CHARACTERS = 1 << 15
SECONDS = 0.15
"""Of the processor. What is linear takes a hundredth of that; what is quadratic takes seconds, however fast it is."""
UNITS = [
    *(
        "a",
        "A",
        "1",
        " ",
        "\n",
        "/",
        ".",
        "_",
        "-",
        "=",
        '"',
        "@",
        ":",
        "[",
        "(",
        "\\",
        "${",
        "://",
        "a.",
        "a=",
        "a:",
        "a b",
    ),
    *(
        "1,",
        "1.",
        "key=",
        "password ",
        "bearer ",
        "authorization: ",
        "http://",
        "https://a:",
        "?a=",
        "<think>",
        "[[A",
        "eyJ",
    ),
    *("filter=lfs ", "task:\n", "- a\n", " and "),
]
MATCHED = {
    ("sft.runner.verify_model", "_LFS"),
    ("sft.adapters.os.gpus", "_PART_LINE"),
    ("sft.adapters.os.gpus", "_UNKNOWN"),
}
"""Those that are only matched at the beginning of a text: searching for them would be quadratic."""
NOT_IMPORTED = ("sft.adapters.instructlab.rank", "sft.__main__", "sft.adapters.evaluation.completions_model")
"""Modules that load torch, or start something."""


def patterns() -> Iterator[tuple[str, str, re.Pattern[str] | re.Pattern[bytes]]]:
    for module in pkgutil.walk_packages(sft.__path__, "sft."):
        if module.name.startswith(NOT_IMPORTED):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            values = (
                value if isinstance(value, tuple | list) else list(value.values()) if type(value) is dict else [value]
            )
            for one in values:
                parts = one if isinstance(one, tuple) else (one,)
                yield from ((module.name, name, part) for part in parts if isinstance(part, re.Pattern))


def seconds(pattern: re.Pattern[str] | re.Pattern[bytes], text: str, *, is_matched: bool) -> float:
    began = time.process_time()
    content: str | bytes = text.encode() if isinstance(pattern.pattern, bytes) else text
    pattern.match(content) if is_matched else pattern.sub(content[:0], content)  # type: ignore[arg-type]
    return time.process_time() - began


@pytest.mark.long
@pytest.mark.slow
def test_every_pattern_is_quick_on_texts_made_against_it() -> None:
    slow, seen = [], set()
    for module, name, pattern in patterns():
        if pattern in seen:
            continue
        seen.add(pattern)
        for unit in UNITS:
            text = unit * (NUM_CHARACTERS // len(unit)) + "!\x00"
            if seconds(pattern, text, is_matched=(module, name) in MATCHED) > SECONDS:
                slow.append(f"{module}.{name} on {unit!r}")
    assert len(seen) > 40
    assert not slow


@pytest.mark.long
def test_a_quadratic_pattern_would_be_seen() -> None:
    assert seconds(re.compile(r"\s*<think>"), " " * NUM_CHARACTERS, is_matched=False) > SECONDS
