"""A chart of lines: where its points lie, what is drawn of many, and what a script could be fooled by."""

from __future__ import annotations

import json
import math
import re

import pytest

from sft.report.lines import Line, line_chart


def points(chart: str) -> list[list[tuple[float, float]]]:
    found = re.findall('<polyline points="([^"]+)"', chart)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in found]  # type: ignore[misc]


def test_a_line_goes_from_the_first_step_at_the_left_to_the_last_at_the_right() -> None:
    [line] = points(line_chart("loss", "Loss", [Line(name="training", points=[(1, 4.0), (2, 3.0), (3, 2.0)])]))
    assert [x for x, _ in line] == [0, 500, 1000]
    assert [y for _, y in line] == sorted(y for _, y in line)  # SVG counts downwards
    assert line[1][1] - line[0][1] == pytest.approx(line[2][1] - line[1][1])


def test_of_many_steps_the_first_and_the_last_are_drawn_and_what_is_no_number_is_not() -> None:
    many = [(step, math.nan if step == 7 else float(step)) for step in range(1, 5001)]
    [line] = points(line_chart("loss", "Loss", [Line(name="training", points=many)]))
    assert 200 < len(line) <= 401
    assert (line[0][0], line[-1][0]) == (0, 1000)


def test_values_that_differ_by_much_get_equal_distances_for_equal_ratios() -> None:
    losses = [(1, 10.0), (2, 1.0), (3, 0.1)]
    [line] = points(line_chart("loss", "Loss", [Line(name="training", points=losses)], may_be_log=True))
    assert abs((line[1][1] - line[0][1]) - (line[2][1] - line[1][1])) < 0.1


def test_two_lines_have_a_key_and_one_has_none() -> None:
    one, other = Line(name="training", points=[(1, 1.0)]), Line(name="validation", points=[(1, 2.0)])
    assert line_chart("loss", "Loss", [one, other]).count('class="key') == 2
    assert line_chart("loss", "Loss", [one, Line(name="validation", points=[])]).count('class="key') == 0
    assert line_chart("loss", "Loss", [Line(name="training", points=[])]) == ""


def test_a_resume_is_a_line_and_a_word() -> None:
    chart = line_chart("loss", "Loss", [Line(name="training", points=[(1, 1.0), (9, 2.0)])], marks=[5])
    assert '<line class="resume" x1="500.00"' in chart
    assert "resumed after step 5" in chart


def test_a_name_does_not_end_the_script_that_holds_it() -> None:
    name = "</script><b>"
    chart = line_chart("loss", "Loss", [Line(name=name, points=[(1, 1.0), (2, 1.0)])])
    [facts] = re.findall('<script type="application/json">(.*?)</script>', chart)
    assert json.loads(facts)["series"][0]["name"] == name
