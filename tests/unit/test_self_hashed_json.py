"""A document that carries its digest shows every change."""

from __future__ import annotations

import hashlib
import json

import pytest

from sft.self_hashed_json import digest_of, dump_with_digest, load_checked

FACTS = {"b": [1, 2.5, None, True], "a": {"ü": 'x"\n', "small": 1e-5}, "not a number": float("nan")}


def test_what_was_sealed_is_read_again() -> None:
    assert load_checked(dump_with_digest(FACTS)) == {**FACTS, "not a number": None}


def test_the_digest_is_that_of_compact_sorted_json() -> None:
    facts = json.loads(dump_with_digest(FACTS))
    digest = facts.pop("digest")
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode()).hexdigest() == digest_of(FACTS)


def test_a_change_of_any_byte_is_noticed() -> None:
    content = dump_with_digest(FACTS)
    for place in range(len(content)):
        for other in (content[place] ^ 1, 0x20, 0x09):
            if other != content[place]:
                with pytest.raises(ValueError, match=r"was changed|not valid JSON|has no digest"):
                    load_checked(content[:place] + bytes([other]) + content[place + 1 :])


def test_a_document_without_a_digest_says_so() -> None:
    with pytest.raises(ValueError, match="has no digest"):
        load_checked(b"{}")
