"""What a person watches where output is no terminal: plain lines, now and then, and nothing when quiet."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from sft import progress
from sft.progress import Progress


def test_a_stage_is_a_line_and_updates_come_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    display = Progress()
    with display.stage("train"):
        display.update("step 1")
        monkeypatch.setattr(progress, "_PLAIN_EVERY_SECONDS", 0.0)
        display.update("step 2")
    assert capsys.readouterr().out == "train …\n  train: step 2\n"


def test_the_same_text_is_printed_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_SECONDS", 0.0)
    display = Progress()
    for title in ("evaluate:base", "evaluate:tuned"):
        with display.stage(title):
            for text in ("held-out 0/22", "held-out 0/22", "held-out 1/22", "held-out 1/22"):
                display.update(text)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "evaluate:base …",
        "  evaluate:base: held-out 0/22",
        "  evaluate:base: held-out 1/22",
        "evaluate:tuned …",
        "  evaluate:tuned: held-out 0/22",
        "  evaluate:tuned: held-out 1/22",
    ]


def test_every_line_of_a_point_has_its_label(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(label="[3/4]").say("\nfirst\nsecond\n")
    assert capsys.readouterr().out == "[3/4] first\n[3/4] second\n"


def test_a_text_is_no_markup_and_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold] tokenize:one: " + "x" * 300
    Progress().say(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_a_live_display_shows_names_as_they_are() -> None:
    display = Progress()
    display.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with display.stage("tokenize:one:"):
        display.update("[bold] :two:")
        shown = display.console._live_stack[-1].get_renderable()
        with display.console.capture() as captured:
            display.console.print(shown)
    assert "tokenize:one:" in captured.get()
    assert "[bold] :two:" in captured.get()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Progress(quiet=True)
    with display.stage("train"):
        display.say("text")
    assert capsys.readouterr().out == ""


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    code = "from sft.adapters.os.command import run_command\nfrom sft.progress import Progress\n"
    code += "def say():\n    for _ in range(100_000):\n        Progress().say('a line')\n    return 0\n"
    code += "raise SystemExit(run_command(say, debug=False))\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
