"""How an image is named."""

from __future__ import annotations

import pytest

from sft.config.image import unpinned


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        ("sft", "sft@sha256:…"),
        ("host:5000/us/sft", "host:5000/us/sft@sha256:…"),
        ("host:5000/us/sft:1.0", "host:5000/us/sft@sha256:…"),
    ],
)
def test_a_tag_is_told_with_the_spelling_that_stays(image: str, pinned: str) -> None:
    assert pinned in (unpinned(image) or "")


def test_a_digest_has_nothing_to_tell() -> None:
    assert unpinned(f"host:5000/us/sft:1.0@sha256:{'a1' * 32}") is None
