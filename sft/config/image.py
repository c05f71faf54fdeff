"""How an image is named: by a digest, which is these bytes for ever, or by a tag, which its registry may move."""

from __future__ import annotations

import re

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def unpinned(image: str) -> str | None:
    """Return what to know of an image that is named by a tag; None if it is named by its digest."""
    if _DIGEST.search(image):
        return None
    name = image if ":" not in image.rpartition("/")[2] else image.rpartition(":")[0]
    return f"image {image} is named by a tag, which may be another image tomorrow; {name}@sha256:… is always this one"
