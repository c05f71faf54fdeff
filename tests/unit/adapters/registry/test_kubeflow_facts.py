from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.registry import Fact
from sft.adapters.registry.kubeflow_facts import facts_of, properties

INT, DOUBLE, TEXT, BOOL = "MetadataIntValue", "MetadataDoubleValue", "MetadataStringValue", "MetadataBoolValue"


def kept(kind: str, value: object) -> dict[str, Any]:
    field = {INT: "int_value", DOUBLE: "double_value", TEXT: "string_value", BOOL: "bool_value"}[kind]
    return {"metadataType": kind, field: value}


@pytest.mark.parametrize(
    ("fact", "before", "after"),
    [
        ("a", None, kept(TEXT, "a")),
        (True, None, kept(TEXT, "true")),
        (False, kept(BOOL, True), kept(BOOL, False)),
        (3, None, kept(DOUBLE, 3.0)),
        (0.25, None, kept(DOUBLE, 0.25)),
        (1_543_714_304, kept(DOUBLE, 7), kept(DOUBLE, 1_543_714_304.0)),
        (1.0, kept(DOUBLE, 0), kept(DOUBLE, 1.0)),
        (3, kept(INT, "2"), kept(INT, "3")),
        (999_999_999, kept(INT, "2"), kept(INT, "999999999")),
        (1_000_000_000, kept(INT, "2"), kept(DOUBLE, 1e9)),  # no integer there has so many digits
        (0.5, kept(INT, "0"), kept(DOUBLE, 0.5)),
        (0.5, kept(TEXT, "none"), kept(TEXT, "0.5")),
        (12, kept(TEXT, "12,000"), kept(TEXT, "12")),
        ("none", kept(DOUBLE, 1), kept(TEXT, "none")),
    ],
)
def test_a_fact_keeps_its_type_where_the_type_can_hold_it(
    fact: Fact, before: dict[str, Any] | None, after: dict[str, Any]
) -> None:
    assert properties({"k": fact}, (), {"k": before} if before else {}) == {"k": after}


def test_what_others_have_said_stays_and_what_a_run_no_longer_says_goes() -> None:
    others = {
        "reviewed": kept(BOOL, True),
        "license_checked": kept(TEXT, "by ada"),
        "datasets": kept(TEXT, "2"),
        "odd": {"metadataType": "MetadataProtoValue", "proto_value": "x"},
    }
    stale = {"tuned.arc.acc": kept(DOUBLE, 1), "training.seed": kept(INT, "7"), "versions.torch": kept(TEXT, "2")}
    now = properties({"run_id": "run-2"}, ["team-a", "reviewed"], others | stale)
    assert now == {"team-a": kept(TEXT, ""), **others, "run_id": kept(TEXT, "run-2")}


def test_facts_are_read_back_whatever_else_lies_there() -> None:
    registered = {
        **{
            "count": kept(INT, "2147483647"),
            "whole": kept(DOUBLE, 1),
            "text": kept(TEXT, ""),
            "flag": kept(BOOL, True),
        },
        **{"struct": {"metadataType": "MetadataStructValue", "struct_value": "e30="}, "later": {"metadataType": "New"}},
        "empty": {},
    }
    assert facts_of(registered) == {"count": 2_147_483_647, "whole": 1, "text": "", "flag": True}
