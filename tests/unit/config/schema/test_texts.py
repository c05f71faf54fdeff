"""What the kinds of text that settings are let pass, and what they say of the rest."""

from __future__ import annotations

import pytest

from sft.config.schema.rules import Text
from sft.config.schema.texts import COLUMN, FOLDER_NAME, FREE, LINE, PATH, PATH_OR_EMPTY, matches


def told(rule: Text, value: str) -> list[str]:
    return [problem.rule for problem in rule.problems("key", value)]


@pytest.mark.parametrize(
    ("rule", "value", "said"),
    [
        (COLUMN, "", "must not be empty"),
        (LINE, "", "must not be empty"),
        (LINE, "a\nb", "must be one line without control characters"),
        (LINE, "a\u2028b", "must be one line without control characters"),
        (LINE, "a\x1b[31m", "must be one line without control characters"),
        (LINE, " a", "must neither begin nor end with a space"),
        (LINE, "a\u00a0", "must neither begin nor end with a space"),
        (LINE, "a" * 256, "must have at most 255 characters, not 256"),
        (FOLDER_NAME, "ä" * 121, "must have at most 240 bytes, not 242"),
        (FOLDER_NAME, "a/b", "must be without /: it names the run's folder"),
        (PATH, "", "must not be empty"),
        (PATH, "a/" + "ä" * 128, "must have at most 255 bytes between two slashes, not 256"),
        (PATH_OR_EMPTY, "a\rb", "must be one line without control characters"),
        (Text(matches("[a-z]+", "must be letters")), "abc\n", "must be letters"),
        (Text(matches(r"\d", "must be a digit")), "٣", "must be a digit"),
    ],
)
def test_a_text_that_is_not_so_is_told(rule: Text, value: str, said: str) -> None:
    assert told(rule, value) == [said]


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (FREE, "line\nline\t🙂"),
        (FREE, ""),
        (COLUMN, " answer\n"),
        (LINE, "a" * 255),
        (LINE, "🙂 a/b"),
        (FOLDER_NAME, "🙂" * 60),
        (PATH, f"https://host/rows.jsonl?signature={'a' * 500}"),
        (PATH, " a.jsonl"),
        (PATH_OR_EMPTY, ""),
    ],
)
def test_a_text_that_is_so_passes(rule: Text, value: str) -> None:
    assert told(rule, value) == []
