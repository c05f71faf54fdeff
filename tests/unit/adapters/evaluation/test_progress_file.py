"""How far an evaluation is, as its parent reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.evaluation import progress_file
from sft.adapters.evaluation.progress_file import ProgressFile


def test_a_count_begins_with_what_was_done_before_and_has_no_speed_yet(tmp_path: Path) -> None:
    ProgressFile(tmp_path / "state.json").begins("requests", 10, done=4)
    assert json.loads((tmp_path / "state.json").read_text()) == {"text": "requests 4/10"}


def test_the_speed_is_that_of_this_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])
    meter = ProgressFile(tmp_path / "state.json")
    meter.begins("samples", 100, done=50)
    now[0] += 2.0
    meter.add(10)
    assert json.loads((tmp_path / "state.json").read_text()) == {"text": "samples 60/100, 5.0 samples/s"}
    meter.add(10)  # too soon to be written
    assert "60/100" in (tmp_path / "state.json").read_text()


def test_notes_are_kept_for_the_end(tmp_path: Path) -> None:
    meter = ProgressFile(tmp_path / "state.json")
    meter.note("goes on with 4")
    assert meter.notes == ["goes on with 4"]
