"""How far an evaluation is, as its parent reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.evaluation import progress_file
from sft.adapters.evaluation.progress_file import ProgressFile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test moves."""
    now = [100.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])
    return now


def text(folder: Path) -> str:
    shown: str = json.loads((folder / "state.json").read_text())["text"]
    return shown


def test_a_count_begins_with_what_was_done_before_and_has_no_speed_yet(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "state.json").begins("requests", 10, done=4)
    assert text(tmp_path) == "requests 4/10"


def test_speed_and_time_left_are_those_of_this_try(tmp_path: Path, clock: list[float]) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.begins("samples", 100, done=50)
    clock[0] += 2.0
    meter.add(10)
    assert text(tmp_path) == "samples 60/100, 5.0/s, 8 s left"
    meter.add(10)  # too soon to be written
    assert text(tmp_path).startswith("samples 60/100")


def test_tokens_tell_that_it_goes_on_before_a_sample_is_done(tmp_path: Path, clock: list[float]) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.begins("held-out", 22)
    clock[0] += 3.0
    meter.add(0, num_tokens=1500)
    assert text(tmp_path) == "held-out 0/22, 1,500 tokens"
    meter.begins("held-out", 22)
    assert text(tmp_path) == "held-out 0/22"


def test_the_end_of_a_count_is_always_written(tmp_path: Path, clock: list[float]) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.begins("samples", 4)
    clock[0] += 1.0
    meter.add(2)
    meter.add(2)
    assert text(tmp_path) == "samples 4/4, 4.0/s"


@pytest.mark.parametrize(
    ("per_sample", "left"),
    [(0.5, "2.0/s, 50 s"), (1.0, "1.0/s, 99 s"), (10.0, "10 s each, 16 min"), (1000.0, "17 min each, 27.5 h")],
)
def test_pace_and_time_left_have_the_unit_that_a_person_would_say(
    per_sample: float, left: str, tmp_path: Path, clock: list[float]
) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.begins("samples", 100)
    clock[0] += per_sample
    meter.add(1)
    assert text(tmp_path).endswith(f", {left} left")


def test_notes_are_kept_for_the_end(tmp_path: Path) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.note("goes on with 4")
    assert meter.notes == ["goes on with 4"]
