"""Kubernetes quantities: `4`, `500m`, `64Gi`. Format: "Quantity" among the API's common definitions."""

from __future__ import annotations

import re

_FORM = re.compile(
    r"(?P<number>\d{1,19}(?:\.\d{1,19})?|\.\d{1,19})(?P<suffix>m|[kMGTPE]|[KMGTPE]i|[eE][+-]?\d\d?)?", re.ASCII
)
_POWERS = "KMGTPE"
_LARGEST = 2.0**63
"""Kubernetes takes less for what is more."""


def is_quantity(text: str) -> bool:
    """Return whether a text is an amount above 0 that Kubernetes can keep."""
    return _FORM.fullmatch(text) is not None and 0 < amount(text) < _LARGEST


def amount(text: str) -> float:
    """Return what a quantity says, in cores or bytes.

    Raises:
        ValueError: It is none.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, suffix = float(found["number"]), found["suffix"] or ""
    if suffix == "m":
        return number / 1000
    if suffix.endswith("i"):
        return float(number * 1024 ** (_POWERS.index(suffix[0]) + 1))
    if suffix[:1] in {"e", "E"} and len(suffix) > 1:
        return float(number * 10.0 ** int(suffix[1:]))
    return float(number * 1000 ** (_POWERS.index(suffix.upper()) + 1)) if suffix else number
