"""`sft data check`: the report, in three forms, and its exit status."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sft.artifacts import ModelArtifact
from tests.support.command import sft

GOOD = {"messages": [{"role": "user", "content": "12"}, {"role": "assistant", "content": "one two"}]}
SPECIAL = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "one"}]}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    other = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}] * 2}
    lines = [json.dumps(GOOD), json.dumps(other), "{", json.dumps(GOOD), json.dumps(SPECIAL)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_every_row_is_accounted_for_and_an_invalid_one_exits_with_1(rows: Path) -> None:
    answer = sft("data", "check", "rows.jsonl", "--json", cwd=rows)
    assert answer.status == 1
    report = json.loads(answer.out)
    counts = report["rows"]
    assert counts.pop("all") == sum(counts.values()) == 5
    assert (counts["train"], counts["rejected"], counts["duplicates"]) == (3, 1, 1)
    assert report["rules"] == {"not-json": 1}
    assert report["rejected"][0].startswith("rows.jsonl:3: not-json")
    assert report["roles"] == {"user": 4, "assistant": 4}
    assert report["turns"] == {"2": 2, "4": 1}
    assert report["tokens"] is None


def test_with_a_model_tokens_are_counted_and_its_rules_applied(rows: Path, tiny_model: ModelArtifact) -> None:
    answer = sft("data", "check", "rows.jsonl", f"model.name_or_path={tiny_model.model_dir}", "--json", cwd=rows)
    report = json.loads(answer.out)
    assert report["rules"] == {"not-json": 1, "special-token": 1}
    assert report["rows"]["train"] == sum(report["tokens"]["histogram"].values()) == 2
    assert 0 < report["tokens"]["loss_share"] < 1
    assert 0 < report["tokens"]["padding_share"] < 0.5


def test_a_clean_dataset_exits_with_0_and_its_text_is_for_people(tmp_path: Path) -> None:
    answer = sft("data", "check", "synthetic://spell-numbers?rows=50", cwd=tmp_path)
    assert answer.status == 0
    assert answer.out.startswith("synthetic://spell-numbers?rows=50: 50 rows, format messages\n")
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_whole_and_shows_hostile_text_as_text(rows: Path) -> None:
    (rows / "rows.jsonl").write_text('{"messages": "<script>alert(1)</script>"}\n' + json.dumps(GOOD))
    sft("data", "check", "rows.jsonl", "--html", "report.html", cwd=rows)
    page = (rows / "report.html").read_text()
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

    Tags().feed(page)
    assert "script" not in seen
    assert seen.count("h2") == 5
    assert "missing-column" in page


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    answer = sft("data", "check", "nowhere.jsonl", cwd=tmp_path)
    assert answer.status == 1
    assert "nowhere.jsonl: No such file" in answer.err
    assert "Traceback" not in answer.err
