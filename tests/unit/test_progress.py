"""What a person watches where output is no terminal: plain lines, now and then, and nothing when quiet."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from sft import progress
from sft.progress import Pace, Progress


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


TRAINING = (
    "step 1,118/12,172, epoch 13/14, loss 0.0137, validation loss 1.2345, lr 1.24e-03, 1239210 tokens/s "
    "(604605 for the loss), 41% MFU, 140.7 GiB, 10:00:09 left"
)


def shown(display: Progress) -> list[str]:
    """What the live display shows now, line by line."""
    console = Console(file=io.StringIO(), width=display.console.width)
    with console.capture() as captured:
        console.print(display._stage)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_live_display_cuts_no_figure_however_narrow(width: int) -> None:
    display = Progress()
    display.console = Console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=True)
    with display.stage("train"):
        display.update(TRAINING)
        lines = shown(display)
    assert max(map(len, lines)) <= width
    for part in TRAINING.split(", "):
        if len(part) <= width - 4:
            assert any(part in line for line in lines), part
    assert "".join("".join(lines).replace(",", "").split()).endswith("".join(TRAINING.replace(",", "").split()))


def test_a_live_display_has_a_bar_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    display = Progress()
    display.console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with display.stage("evaluate:base"):
        display.update("holdout 0/300, 0 tokens")
        now += 10.0
        display.update("holdout 75/300, 900 tokens")
        told = "\n".join(shown(display))
    assert f"evaluate:base  {'━' * 20}  25%" in told
    assert "7.5/s" in told
    assert "0:00:30 left" in told


def test_another_part_of_a_stage_goes_at_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    pace = Pace()
    for text in ("arc 0/10", "arc 10/10", "piqa 0/10"):
        pace.read(text)
        now += 100.0
    assert pace.told("piqa 0/10") == ""
    pace.read("piqa 5/10")
    assert pace.told("piqa 5/10") == "0.05/s, 0:01:40 left"
    pace.read("rows 0/9,000,000")
    now += 100.0
    pace.read("rows 400,000/9,000,000")
    assert pace.told("rows 400,000/9,000,000") == "4,000/s, 0:35:50 left"
    pace.read("writing the report")
    assert pace.share is None


def test_plain_lines_say_the_time_left_and_hold_no_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    display = Progress()
    with display.stage("evaluate:base"):
        for count in (0, 10, 20):
            display.update(f"holdout {count}/100")
            now += 10.0
    out = capsys.readouterr().out
    assert "holdout 20/100, 1/s, 0:01:20 left" in out
    assert "\x1b" not in out


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    display, file = Progress(), io.StringIO()
    display.console = Console(file=file, force_terminal=True)
    with display.stage("train"):
        pass
    assert file.getvalue() == "train …\n"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Progress(quiet=True)
    with display.stage("train"):
        display.say("text")
    assert capsys.readouterr().out == ""


def test_a_reader_that_has_gone_ends_a_command_quietly() -> None:
    code = "from sft.adapters.os.command import run_command\nfrom sft.progress import Pace, Progress\n"
    code += "def say():\n    for _ in range(100_000):\n        Progress().say('a line')\n    return 0\n"
    code += "raise SystemExit(run_command(say, debug=False))\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_columns_are_folded_below_themselves_on_a_terminal_only() -> None:
    line = f"package         will run  takes what {', '.join(['evaluate:tuned'] * 6)} will make"
    for is_terminal in (True, False):
        display = Progress()
        display.console = Console(
            file=io.StringIO(), force_terminal=is_terminal, width=80, soft_wrap=True, highlight=False, color_system=None
        )
        display.say_folded(line)
        display.say_folded("short")
        assert isinstance(display.console.file, io.StringIO)
        *folded, short = display.console.file.getvalue().splitlines()
        assert short == "short"
        assert " ".join([folded[0], *(part.strip() for part in folded[1:])]) == line
        if is_terminal:
            assert max(map(len, folded)) <= 80
            assert {len(part) - len(part.lstrip()) for part in folded[1:]} == {line.index("takes")}
        else:
            assert len(folded) == 1


def test_a_word_that_is_longer_than_the_terminal_is_not_cut() -> None:
    assert progress._folded(f"run        {'x' * 100}", 80) == ["run", f"           {'x' * 100}"]
    assert progress._folded("  a note of seven words and no columns", 20) == [
        "  a note of seven",
        "  words and no",
        "  columns",
    ]
