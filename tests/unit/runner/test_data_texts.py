"""What stands in the data is taken out of other texts, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.runner.data_texts import MASK, DataTexts


def without(text: str, *rows: object, folder: Path, max_bytes: int = 1 << 20) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    texts = DataTexts([text])
    texts.read([file], max_bytes)
    return texts.without(text)


ROW = {"messages": [{"role": "user", "content": "My salary is 4711 euros, tell nobody.\nPlease."}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("row 3: My salary is 4711 euros, is too long", f"row 3: {MASK}, is too long"),
        ("it says ...alary is 4711 euros, tell nobody", f"it says ...alary {MASK}"),  # cut out of the row's middle
        ("nothing of it is here: loss 0.1 at step 3", "nothing of it is here: loss 0.1 at step 3"),
    ],
)
def test_four_words_in_common_are_taken_out(text: str, expected: str, tmp_path: Path) -> None:
    assert without(text, ROW, folder=tmp_path) == expected


def test_a_short_text_is_taken_out_if_all_of_it_is_there(tmp_path: Path) -> None:
    row = {"prompt": "Ada Lovelace", "completion": "DE89370400440532013000"}
    text = "a row: Ada Lovelace -> DE89370400440532013000; Ada wrote"
    assert without(text, row, folder=tmp_path) == f"a row: {MASK} -> {MASK}; Ada wrote"


def test_a_script_without_spaces_is_taken_out_too(tmp_path: Path) -> None:
    row = {"prompt": "我的密码是四七一一请不要告诉别人"}
    assert without("错误: 密码是四七一一请不", row, folder=tmp_path) == f"错误: {MASK}"


def test_what_is_escaped_in_the_data_is_known(tmp_path: Path) -> None:
    row = {"prompt": 'Grüße an "Jürgen" aus\nKöln, bis morgen'}
    assert "Köln" not in without("the row 'Jürgen aus Köln, bis morgen'", row, folder=tmp_path)


def test_a_long_quotation_is_taken_out_though_nobody_knows_it(tmp_path: Path) -> None:
    assert without('turn 1 holds "a text that is nowhere"', folder=tmp_path) == 'turn 1 holds "(22 characters)"'


def test_how_much_was_not_read_is_said(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": "b"}\n' * 100)
    assert DataTexts(["x"]).read([file], 1_000) == 100
    assert DataTexts(["x"]).read([file], 1_100) == 0


def test_each_text_of_a_tree_is_cleaned_and_the_tree_stays(tmp_path: Path) -> None:
    tree = {"error": "My salary is 4711 euros", "steps": [{"n": 1, "name": "train"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    texts = DataTexts([tree["error"]])  # type: ignore[list-item]
    texts.read([tmp_path / "rows.jsonl"], 1 << 20)
    assert texts.tree_without(tree) == {"error": MASK, "steps": [{"n": 1, "name": "train"}]}
