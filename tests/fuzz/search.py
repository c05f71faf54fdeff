"""Inputs that break a parser: valid ones with parts exchanged, for as long as ``SFT_FUZZ_SECONDS`` says.

Without that variable the same few inputs are tried each time, so that `make test` is repeatable; `make fuzz` tries
others each time, and prints the smallest that breaks something. It is then kept as a seed or in a test of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.errors import SftError

_LONGEST = 12


def search(
    parse: Callable[[bytes], None],
    seeds: Sequence[bytes],
    tokens: Sequence[bytes],
    *,
    refused_by: type[Exception] | tuple[type[Exception], ...] = SftError,
    naming: str = "",
    examples: int = 150,
) -> None:
    """Call `parse` with one input after the other.

    Args:
        parse: Returns where its parser reads an input.
        seeds: Valid inputs.
        tokens: What has a meaning there.
        refused_by: What it raises where its parser refuses an input.
        naming: What such a message names.
        examples: How many inputs, without `SFT_FUZZ_SECONDS`.
    """
    seconds = float(os.environ.get("SFT_FUZZ_SECONDS", "0"))
    piece = st.sampled_from([b"", *tokens]) | st.binary(max_size=8)
    edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, _LONGEST), piece), max_size=6)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=not seconds,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.sampled_from(list(seeds)), edits)
    def attempt(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        refusal = _refusal(parse, _edited(seed, edits), refused_by)
        assert refusal is None or (refusal and naming in refusal)

    end = time.monotonic() + seconds
    attempt()
    while time.monotonic() < end:
        attempt()


def _refusal(
    parse: Callable[[bytes], None], content: bytes, refused_by: type[Exception] | tuple[type[Exception], ...]
) -> str | None:
    try:
        parse(content)
    except refused_by as error:
        return str(error)
    return None


def _edited(text: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, piece in edits:
        begin = place % (len(text) + 1)
        text = text[:begin] + piece + text[begin + length :]
    return text
