"""Owns JSON documents that carry their own digest, so that a change of one byte shows without any other file.

``digest`` is the sha256 of everything else in the document, as Python's ``json.dumps(facts, sort_keys=True,
separators=(",", ":"), ensure_ascii=False)`` writes it. That guards against accidents and careless edits; who changes a
document and its digest is found out by what refers to it from outside: a registry, a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from sft.files import NotADocumentError

DIGEST = "digest"
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, NotADocumentError)
"""What a file is refused with that holds no JSON of the type that is asked for."""


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the sha256 of a document's facts; see the module's docstring."""
    text = json.dumps(_plain(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_with_digest(facts: Mapping[str, Any]) -> bytes:
    """Return a document of these facts and their digest, as it is written to a file."""
    plain = {key: value for key, value in _plain(facts).items() if key != DIGEST}
    return msgspec.json.format(msgspec.json.encode({**plain, DIGEST: digest_of(plain)}), indent=1) + b"\n"


def load_checked(content: bytes) -> dict[str, Any]:
    """Return the facts of a document, if its digest is theirs.

    Raises:
        ValueError: It is not what was sealed; the message says in which way.
    """
    try:
        facts = msgspec.json.decode(content, type=dict[str, Any])
    except NOT_JSON as error:
        raise ValueError(f"is not valid JSON any more ({error})") from error
    sealed = facts.pop(DIGEST, None)
    if sealed is None:
        raise ValueError("has no digest")
    if sealed != digest_of(facts) or dump_with_digest(facts) != content:
        raise ValueError(f"was changed: its digest is {digest_of(facts)}, it says {sealed}")
    return facts


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reader of the JSON gets: no number that JSON has not, no type of ours."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(facts))
    return plain
