"""The page and the table of a comparison, for any number of runs and settings."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as xml
from typing import Any

import pytest

from sft.report.comparison import charts, page, text
from sft.report.comparison.groups import Group
from sft.report.comparison.table import Cell, Comparison, Row
from tests.support.comparisons import comparison, row


def test_a_row_says_what_varied_what_came_of_it_and_what_it_cost() -> None:
    lines = text.as_text(comparison(2, 1)).splitlines()
    assert lines[0].split() == [
        "#", "learning_rate", "holdout.loss", "arc_easy.acc", "train.loss", "tokens/s", "memory", "time", "status",
    ]  # fmt: skip
    assert lines[1].split() == [
        "★", "1", "0.001", "0.5000", "(-1.5000)", "0.4000", "(+0.1500)", "0.6000",
        "1,200", "1.5", "GiB", "1:30", "done",
    ]  # fmt: skip


def test_a_difference_that_is_not_seen_is_marked() -> None:
    found = comparison(2, 1)
    found.rows[0].scores["arc_easy.acc"].verdict = "no difference seen"
    assert "(~+0.1500)" in text.as_text(found)
    html = page.as_html(found)
    assert '<small class="" title="no difference seen">+0.1500</small>' in html
    assert '<small class="up" title="better">-1.5000</small>' in html


def test_a_page_of_two_groups_draws_each_for_itself_and_has_no_best_of_all() -> None:
    found = comparison(5, 1)
    found.groups = [
        Group(number=1, size=3, differs={"eval.num_fewshot": "5"}, first_two="1 against 2: -0.1000, better"),
        Group(number=2, size=2, differs={"eval.num_fewshot": ""}),
    ]
    for place, one in enumerate(found.rows):
        one.group = 1 if place < 3 else 2
    html = page.as_html(found)
    for told in (
        "only the runs of a group compare",
        "group 1, 3 runs: eval.num_fewshot 5",
        "group 2, 2 runs: eval.num_fewshot none",
        "★ 1 against 2: -0.1000, better",
        "What the settings do (group 1)",
        "What it costs (group 2)",
    ):
        assert told in html
    assert "best holdout.loss" not in html
    assert "best holdout.loss" in page.as_html(comparison(5, 1))
    assert [len(found.of_group(group).rows) for group in found.groups] == [3, 2]


def test_what_failed_is_told_beneath_the_table() -> None:
    found = comparison(2, 1)
    found.rows[1] = row(2, {"training.learning_rate": "1"}, status="failed", reason="train: loss is nan\nmore")
    lines = text.as_text(found).splitlines()
    assert lines[2].split() == ["2", "1", "failed"]
    assert lines[3] == "2: failed: train: loss is nan"


def test_csv_and_json_hold_every_score_in_full() -> None:
    found = comparison(3, 2)
    rows = list(csv.DictReader(io.StringIO(text.as_csv(found))))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["holdout.loss.change"]) == -1.5
    assert rows[0]["memory_bytes"] == str(3 * 2**29)
    tree = json.loads(text.as_json(found))
    assert tree["rows"][0]["scores"]["arc_easy.acc"]["base"] == 0.25
    assert "curve" not in tree["rows"][0]


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (["training.learning_rate"], ["learning_rate"]),
        (["training/fsdp"], ["fsdp"]),
        (["training.lora.rank", "model.rank"], ["lora.rank", "model.rank"]),
    ],
)
def test_settings_are_called_by_as_little_as_tells_them_apart(keys: list[str], shown: list[str]) -> None:
    assert list(text.short_keys(keys).values()) == shown


@pytest.mark.parametrize(
    ("num_runs", "num_keys", "what"),
    [
        (2, 1, "holdout.loss by training.learning_rate"),
        (4, 2, "holdout.loss by training.learning_rate and training.num_epochs"),
        (40, 3, "Settings of every run and its holdout.loss"),
    ],
)
def test_settings_are_points_a_heat_map_or_parallel_coordinates(num_runs: int, num_keys: int, what: str) -> None:
    drawn = xml.fromstring(charts.settings(comparison(num_runs, num_keys)))
    assert drawn.attrib["aria-label"] == what
    assert len(list(drawn.iter("g"))) == num_runs


def test_a_heat_map_shows_where_nothing_came_of_it() -> None:
    found = comparison(4, 2)
    found.rows[3] = row(4, found.rows[3].values, status="skipped", reason="too much")
    drawn = xml.fromstring(charts.settings(found))
    assert "skipped" in "".join(drawn.itertext())


def test_the_front_joins_what_no_other_run_beats() -> None:
    found = comparison(3, 1)
    for one, (loss, seconds) in zip(found.rows, [(0.1, 30.0), (0.2, 10.0), (0.3, 20.0)], strict=True):
        one.objective, one.seconds = loss, seconds
    front = next(line for line in xml.fromstring(charts.pareto(found, by_memory=False)).iter("polyline"))
    circles = {
        mark.attrib["data-n"]: next(mark.iter("circle"))
        for mark in xml.fromstring(charts.pareto(found, by_memory=False)).iter("g")
    }
    on_front = {f"{circle.attrib['cx']},{circle.attrib['cy']}" for n, circle in circles.items() if n != "3"}
    assert set(front.attrib["points"].split()) == on_front


def odd() -> dict[str, Comparison]:
    nothing = comparison(2, 1)
    nothing.rows = [row(n, {"training.learning_rate": "1"}, status="failed", reason="<b>&") for n in (1, 2)]
    alone = comparison(1, 1)
    same = comparison(3, 1)
    for one in same.rows:
        one.objective = 0.5
    infinite = comparison(2, 1)
    infinite.rows[1].curve = [(1, 1e30), (2, 1e-30)]
    unscored = Comparison(
        title="x", is_sweep=False, objective="train.loss", higher_is_better=False, keys=[], rows=comparison(2, 1).rows
    )
    empty = Comparison(title="x", is_sweep=False, objective="train.loss", higher_is_better=False, keys=[], rows=[])
    return {"failed": nothing, "alone": alone, "same": same, "wide": infinite, "unscored": unscored, "empty": empty}


@pytest.mark.parametrize("name", odd())
def test_odd_comparisons_have_a_page_and_a_table(name: str) -> None:
    found = odd()[name]
    assert page.as_html(found).count("<section>") >= 1
    assert text.as_text(found)


def test_nothing_of_a_run_is_markup() -> None:
    found = comparison(2, 1)
    found.title = found.rows[0].values["training.learning_rate"] = found.rows[0].status = "<script>bad()</script>"
    found.rows[1].reason = '"><img src=x onerror=bad()>'
    made = page.as_html(found)
    assert "<script>bad" not in made
    assert "<img" not in made


@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_white_text_can_be_read_on_every_colour_of_a_cell(place: float) -> None:
    parts = [int(charts.colour(place)[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    assert 1.05 / (luminance + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_page_asks_nothing_of_the_network() -> None:
    made = page.as_html(comparison(4, 2))
    assert "http" not in made.replace("http-equiv", "")
    assert "src=" not in made
    assert "@import" not in made


def test_a_score_that_is_better_when_higher_is_so_in_the_pareto_view() -> None:
    found = comparison(2, 1)
    found.higher_is_better = True
    found.rows[0].objective, found.rows[1].objective = 0.9, 0.1
    for one in found.rows:
        one.seconds = 10.0
    assert "front" not in charts.pareto(found, by_memory=False)  # one point is better and costs the same


def test_cells_know_their_change() -> None:
    cell: dict[str, Any] = {"stderr": None, "higher_is_better": True}
    assert Cell(value=2.0, base=0.5, **cell).change == 1.5
    assert Cell(value=2.0, base=None, **cell).change is None
    assert Row(number=1, run="", folder="", values={}, status="done").seconds is None
