"""Rows that break a rule: every one is counted, the first are shown."""

from __future__ import annotations

import msgspec

from sft.chat.rejected import SHOWN, Rejected, Rejections
from sft.chat.sample import RULES


def row(line: int, rule: str) -> Rejected:
    return Rejected(file="rows.jsonl", line=line, rule=rule, found="what is wrong", row='{"a": 1}')


def test_a_row_is_named_by_file_line_and_rule_with_what_the_rule_asks() -> None:
    rule = next(iter(RULES))
    assert str(row(3, rule)) == f"rows.jsonl:3: {rule}: what is wrong; {RULES[rule]}"


def test_every_row_is_counted_and_kept_and_the_first_are_shown() -> None:
    often, rare = [*RULES][:2]
    rejections, lines = Rejections(), []
    for number in range(SHOWN + 2):
        lines.append(rejections.add(row(number, rare if number == 0 else often)))
    assert [msgspec.json.decode(line, type=Rejected).line for line in lines] == [*range(SHOWN + 2)]
    error = rejections.error(100, fix="drop them")
    first, *shown, more = error.message.splitlines()
    assert first == f"{SHOWN + 2} of 100 rows are invalid ({SHOWN + 1} {often}, 1 {rare})"
    assert len(shown) == SHOWN
    assert shown[0].startswith("  rows.jsonl:0: ")
    assert more == "  … and 2 more"
    assert error.fix == "drop them"


def test_few_rows_are_all_shown() -> None:
    rejections = Rejections()
    rejections.add(row(1, next(iter(RULES))))
    assert "more" not in rejections.error(1, fix="").message
