"""What a rule lets pass, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.schema.rules import LARGEST_INT, Each, Entries, Number, Pairs, Rule, Text, Tree
from sft.config.schema.texts import not_empty

NAME = Text(not_empty)


def told(rule: Rule, value: Any) -> list[str]:
    return [str(problem) for problem in rule.problems("key", value)]


@pytest.mark.parametrize(
    ("rule", "value", "said"),
    [
        (Number(at_least=1), 0, "key=0: must be at least 1"),
        (Number(at_least=0), -1, "key=-1: must not be negative"),
        (Number(above=0, at_most=1), 0.0, "key=0.0: must be above 0 and at most 1"),
        (Number(at_least=0, below=1), 1.0, "key=1.0: must be at least 0 and below 1"),
        (Number(at_least=1, at_most=65535), 65536, "key=65536: must be at least 1 and at most 65535"),
        (Number(above=0), float("inf"), "key=inf: must be a finite number"),
        (Number(above=0), float("nan"), "key=nan: must be a finite number"),
        (Number(at_least=1), LARGEST_INT + 1, f"key={LARGEST_INT + 1}: must be at most {LARGEST_INT}"),
        (Text(), "a\0b", "key=a\\x00b: must not hold the character NUL"),
        (Text(), "\ud800", "key=\\ud800: must be valid Unicode"),
        (Text(), ["a"], "key=['a']: must be text"),
    ],
)
def test_a_broken_rule_is_told_with_the_value(rule: Rule, value: Any, said: str) -> None:
    assert told(rule, value) == [said]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (Number(at_least=0), 0),
        (Number(above=0), 1e300),
        (Number(at_least=1), LARGEST_INT),
        (Text(), "any\nlines"),
    ],
)
def test_what_keeps_a_rule_passes(rule: Rule, value: Any) -> None:
    assert told(rule, value) == []


def test_a_number_that_python_does_not_write_out_is_refused() -> None:
    assert told(Number(at_least=1), 1 << 20_000) == [f"key=(an endless number): must be at most {LARGEST_INT}"]


def test_a_long_value_is_shown_in_part() -> None:
    assert told(Text(lambda _: "must be short"), "a" * 300) == [f"key={'a' * 100}… (300 characters): must be short"]


def test_an_item_of_a_list_is_told_under_the_lists_key() -> None:
    assert told(Each(NAME), ["a", ""]) == ["key=: must not be empty"]


def test_a_mapping_tells_a_key_under_its_own_and_a_value_under_the_values_key() -> None:
    assert told(Pairs(NAME, NAME), {"": "a", "b": ""}) == ["key=: must not be empty", "key.b=: must not be empty"]


def test_a_value_with_a_secrets_name_is_not_shown() -> None:
    assert told(Pairs(NAME, Text()), {"HF_TOKEN": "canary\0"}) == ["key.HF_TOKEN: must not hold the character NUL"]


def test_a_password_in_a_value_is_not_shown() -> None:
    assert "canary" not in told(Text(), "https://me:canary@host/\0")[0]


def test_a_mapping_with_known_keys_takes_no_other() -> None:
    rule = Each(Entries({"effect": NAME}))
    assert told(rule, [{"effect": ""}]) == ["key.0.effect=: must not be empty"]
    assert told(rule, [{"colour": "x"}]) == ["key.0=colour: must be made of effect"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": [1.5, float("nan")]}}, "key.a.b=nan: must be a finite number"),
        ({"a": [{"b": "\0"}]}, "key.a.0.b=\\x00: must not hold the character NUL"),
        ({"a": {1: 2}}, "key.a=1: must have texts as keys"),
        ({"a": 1 << 64}, f"key.a={1 << 64}: must be at most {LARGEST_INT}"),
        ({"a": b"bytes"}, "key.a=b'bytes': must be text"),
    ],
)
def test_what_json_can_not_hold_is_refused_wherever_it_stands(value: Any, said: str) -> None:
    assert told(Tree(), value) == [said]


def test_what_json_can_hold_passes() -> None:
    assert told(Tree(), {"a": None, "b": [True, 1, -2.5, "x", {"c": []}]}) == []
