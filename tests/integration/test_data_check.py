"""`sft data check`: the report, in three forms, and its exit status."""

from __future__ import annotations

import html
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


@pytest.mark.long
def test_with_a_model_tokens_are_counted_and_its_rules_applied(rows: Path, tiny_model: ModelArtifact) -> None:
    answer = sft("data", "check", "rows.jsonl", f"model.name_or_path={tiny_model.model_dir}", "--json", cwd=rows)
    report = json.loads(answer.out)
    assert report["rules"] == {"not-json": 1, "special-token": 1}
    assert report["rows"]["train"] == sum(report["tokens"]["histogram"].values()) == 2
    assert 0 < report["tokens"]["loss_share"] < 1
    assert 0 < report["tokens"]["padding_share"] < 0.5
    [sample] = report["first_samples"]
    assert [piece["text"] for piece in sample["pieces"] if piece["is_loss"]] == ["one two", "<|im_end|>"]


@pytest.mark.long
def test_with_a_model_the_first_sample_is_shown_as_the_model_sees_it(rows: Path, tiny_model: ModelArtifact) -> None:
    answer = sft("data", "check", "rows.jsonl", f"model.name_or_path={tiny_model.model_dir}", cwd=rows)
    assert answer.out.endswith("<|im_start|>assistant\n⟦one two<|im_end|>⟧\n\n")
    assert answer.out.count("⟦") == 2  # the legend, and the answer


@pytest.mark.long
def test_where_every_row_is_refused_no_file_is_named_that_is_gone(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(SPECIAL))
    answer = sft("data", "check", "rows.jsonl", f"model.name_or_path={tiny_model.model_dir}", cwd=tmp_path)
    assert answer.status == 1
    assert "\n  training split:1: special-token: turn 1 holds <|im_end|>" in answer.err
    assert "sft-data" not in answer.err


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


NOTED = [
    {**GOOD, "id": 1, "naïve": "x"},
    {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "one", "weight": 0}]},
    {**GOOD, "images": ["ü.png"]},
    {"messages": [{"role": "user", "content": None}, GOOD["messages"][1]]},
    *({"messages": [{"role": "user", "content": str(number)}, GOOD["messages"][1]]} for number in range(10)),
]


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, NOTED)), encoding="utf-8")
    (folder / "test.jsonl").write_text(json.dumps(GOOD))
    return tmp_path


@pytest.mark.long
def test_notes_and_refusals_are_those_of_a_run_in_text_json_and_page(noted: Path) -> None:
    command = ["run", "quickstart", "dataset=local", "dataset.uri=data", "--until", "dataset"]
    run = sft(*command, "dataset.on_invalid=drop", cwd=noted)
    refused = sft(*command, cwd=noted)
    text = sft("data", "check", "data", "--html", "report.html", cwd=noted)
    report = json.loads(sft("data", "check", "data", "--json", cwd=noted).out)
    page = html.unescape((noted / "report.html").read_text(encoding="utf-8"))
    assert report["notes"] == [
        "data: not read: test.jsonl; dataset.split chooses",
        "not read: `id` in 1 of 14 rows, first in data/train.jsonl:1",
        "not read: `naïve` in 1 of 14 rows, first in data/train.jsonl:1",
    ]
    assert report["unread_fields"] == {"id": 1, "naïve": 1}
    for note in report["notes"]:
        assert note in run.out
        assert note in text.out
        assert note in page
    assert [row.split(": ")[:2] for row in report["rejected"]] == [
        ["data/train.jsonl:2", "nothing-to-train"],
        ["data/train.jsonl:3", "unread-field"],
        ["data/train.jsonl:4", "no-content"],
    ]
    for row in report["rejected"]:
        assert row in refused.err
        assert row in text.out
        assert row in page


def test_a_terminal_that_lacks_a_character_shows_an_escape(noted: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii"}
    for command in (["data", "check", "data"], ["data", "check", "data", "dataset.on_invalid=error"]):
        answer = sft(*command, cwd=noted, **environment)
        assert "Traceback" not in answer.err
        assert answer.status == 1
    assert (
        json.loads(sft("data", "check", "data", "--json", cwd=noted, **environment).out)["unread_fields"]["naïve"] == 1
    )


def test_answers_left_out_by_choice_are_no_failure(tmp_path: Path) -> None:
    rows = [{"prompt": "1", "completion": "one", "label": label} for label in (True, False)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = sft("data", "check", "rows.jsonl", "dataset.format=preference", "--json", cwd=tmp_path)
    assert (answer.status, json.loads(answer.out)["rules"]) == (0, {"not-chosen": 1})
    assert sft("data", "check", "rows.jsonl", "dataset.split=train", cwd=tmp_path).status == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    answer = sft("data", "check", "nowhere.jsonl", cwd=tmp_path)
    assert answer.status == 1
    assert "nowhere.jsonl: No such file" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.long
@pytest.mark.slow
def test_a_recipe_of_several_sources_is_told_by_source_with_its_mix(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    turns = [[{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": str(n)}] for n in range(30)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    (tmp_path / "maths.csv").write_text("prompt,completion\nq 1,1\n" + "".join(f"{n},{n}\n" for n in range(9)) + "x,\n")
    (tmp_path / "mine.yaml").write_text(
        "defaults: [config, _self_]\ndataset:\n  train_split: 1.0\n  mixing: proportional\n  stop: all_exhausted\n"
        "  sources:\n    chat: {uri: chat.jsonl, weight: 2}\n    maths: {uri: maths.csv}\n"
        f"model: {{name_or_path: {tiny_model.model_dir}}}\n"
    )
    answer = sft("data", "check", "mine.yaml", "--json", cwd=tmp_path)
    report = json.loads(answer.out)
    maths = {"rows": 11, "train": 9, "held_out": 0, "rejected": 1, "duplicates": 1, "held_out_already": 0}
    assert report["sources"]["maths"] == {**maths, "unused": 0, "contaminated": 0}
    assert report["mix"] == {"chat": {"samples": 30, "used": 30}, "maths": {"samples": 9, "used": 15}}
    assert "maths: " in report["rejected"][0]
    of_tokens = sft("data", "check", "mine.yaml", "--html", "p.html", "model=hub", cwd=tmp_path)
    assert "maths: 11 rows = 9 train + 1 rejected + 1 duplicates" in of_tokens.out
    assert "maths: trains 15 samples (33.3% of 45; x 1.67)" in of_tokens.out
    assert "Rows by source" in (tmp_path / "p.html").read_text()
