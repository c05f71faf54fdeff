"""What a program reads while a run works: lines of JSON, in place of a person's display."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sft import progress
from sft.errors import ConfigError, Detached, Preempted, Problem, StageError
from sft.logs import remember
from sft.progress_events import EventProgress


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for event in events:
        assert event.pop("time").endswith("+00:00")
    return events


def test_each_event_is_a_line_with_its_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_SECONDS", 0.0)
    display = EventProgress()
    with display.ending():
        with display.stage("train"):
            display.update("step 3/12, loss 1.2")
            display.update("step 3/12, loss 1.2")
            display.say("  node 1: „bereit“\n")
        display.say_folded("record  runs/a/run.json")
    assert told(capsys) == [
        {"event": "stage", "stage": "train"},
        {"event": "progress", "stage": "train", "text": "step 3/12, loss 1.2", "share": 0.25, "seconds_left": None},
        {"event": "said", "stage": "train", "text": "node 1: „bereit“"},
        {"event": "said", "stage": None, "text": "record  runs/a/run.json"},
        {"event": "end", "stage": None, "exit_code": 0, "run": None},
    ]


def test_the_first_progress_of_a_stage_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = EventProgress()
    for stage in ("tokenize", "train"):
        with display.stage(stage):
            display.update("begins")
            display.update("goes on")
    texts = [event["text"] for event in told(capsys) if event["event"] == "progress"]
    assert texts == ["begins", "begins"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (StageError("no space", fix="free some"), {"exit_code": 1, "message": "no space", "fix": "free some"}),
        (Preempted("SIGTERM: stopped"), {"exit_code": 75, "message": "SIGTERM: stopped"}),
        (Detached("trains on"), {"exit_code": 0, "message": "trains on"}),
        (KeyboardInterrupt(), {"exit_code": 130, "message": "interrupted; the same command continues"}),
        (SystemExit(3), {"exit_code": 3}),
        (ValueError("a bug"), {"exit_code": 1, "message": "ValueError: a bug"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_last_line_tells_how_it_ended(
    error: BaseException, end: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    display = EventProgress()
    with pytest.raises(type(error)), display.ending(), display.stage("train"):
        raise error
    assert told(capsys)[1:] == [{"event": "end", "stage": None, **end, "run": None}]


def test_problems_of_the_configuration_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem(key="training.seed", value="x", rule="must be a number")
    with pytest.raises(ConfigError), EventProgress().ending():
        raise ConfigError([problem])
    [end] = told(capsys)
    assert end["exit_code"] == 2
    assert end["problems"] == [{"key": "training.seed", "value": "x", "rule": "must be a number", "suggestion": None}]


def test_a_secret_is_masked_however_json_spells_it(capsys: pytest.CaptureFixture[str]) -> None:
    remember('can"ary-\\secret-1')
    EventProgress().say('it says can"ary-\\secret-1 here')
    [event] = told(capsys)
    assert "ary" not in event["text"]
    assert event["text"].startswith("it says ")


def test_nobody_who_reads_is_not_told_of_it() -> None:
    with pytest.raises(BrokenPipeError), EventProgress().ending():
        raise BrokenPipeError
