"""No secret gets into a text that leaves the process."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pkgutil
import re
import string
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sft
from sft.adapters.os.process import _copy_masked, supervise
from sft.logs import remember, to_file
from sft.redaction import redact


def test_a_secret_that_was_met_on_the_way_is_masked() -> None:
    remember("canary-1234", "")
    assert redact("a canary-1234 b") == "a *** b"


def test_no_way_of_printing_goes_past_the_mask(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from sft.logs import mask_streams\n"
        "mask_streams()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.write('canary-1234 write\\n')\n"
        "    stream.writelines(['canary-1234 writelines\\n'])\n"
        "    stream.flush()\n"
        "    stream.buffer.write(b'canary-1234 buffer\\n')\n"
        "    stream.buffer.writelines([b'canary-1234 buffer lines\\n'])\n"
        "    stream.buffer.flush()\n"
        "    print('canary-1234 print', file=stream, flush=True)\n"
        "    os.write(stream.fileno(), b'canary-1234 descriptor\\n')\n"
        "subprocess.run(['sh', '-c', 'echo $A_TOKEN of a grandchild'])\n"
    )
    log = tmp_path / "log.txt"
    assert supervise([sys.executable, "-c", code], log=log, env={"A_TOKEN": "canary-1234"}) == 0
    text = log.read_text()
    assert "canary" in text  # the parent has not the child's variable, so what goes past the child's own mask shows
    os.environ["A_TOKEN"] = "canary-1234"
    try:
        log.unlink()
        assert supervise([sys.executable, "-c", code], log=log) == 0
    finally:
        del os.environ["A_TOKEN"]
    assert log.read_text().count("***") == 13
    assert "canary" not in log.read_text()


@pytest.mark.parametrize("flushed", [False, True])
def test_a_secret_that_is_written_in_two_parts_is_masked(flushed: bool) -> None:
    code = (
        "import sys\n"
        "from sft.logs import mask_streams\n"
        "mask_streams()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.write('one cana'); stream.write('ry-1234 two\\n')\n"
        "    stream.buffer.write(b'three cana'); stream.buffer.write(b'ry-1234 four\\n')\n"
        "    stream.write('five canary-1234 and no end')\n"
        f"    {flushed} and stream.flush()\n"
    )
    environment = {**os.environ, "A_TOKEN": "canary-1234"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    for said in (ended.stdout, ended.stderr):
        assert sorted(said.splitlines()) == ["five *** and no end", "one *** two", "three *** four"]


def test_nothing_that_threads_and_a_fork_print_is_lost_or_said_twice() -> None:
    code = (
        "import os, sys, threading\n"
        "from sft.logs import mask_streams\n"
        "mask_streams()\n"
        "def say(name):\n"
        "    for _ in range(500): print(name * 40)\n"
        "threads = [threading.Thread(target=say, args=(name,)) for name in 'abc']\n"
        "[thread.start() for thread in threads]\n"
        "if (child := os.fork()) == 0:\n"
        "    print('d' * 40, flush=True); os._exit(0)\n"
        "[thread.join() for thread in threads]; os.waitpid(child, 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-u", "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert [ended.stdout.count(name) for name in "abcd"] == [20_000, 20_000, 20_000, 40]


@pytest.mark.parametrize("place", range(65_520, 65_545))
def test_a_secret_across_the_parts_of_a_long_line_is_masked(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "canary-1234")
    reading, writing = os.pipe()
    log = tmp_path / "log.txt"
    text = "x" * place + "canary-1234" + "y" * 70_000
    with os.fdopen(writing, "wb") as pipe:
        copied = (os.fdopen(reading, "rb"), log.open("ab", buffering=0))
        thread = threading.Thread(target=_copy_masked, args=copied)
        thread.start()
        pipe.write(text.encode())
    thread.join()
    assert log.read_text() == text.replace("canary-1234", "***")


AT_THE_BEGINNING = {
    "sft.config.launcher_checks._RENDEZVOUS",
    "sft.adapters.os.gpus._PART_LINE",
    "sft.adapters.os.gpus._UNKNOWN",
}
"""Patterns that are only matched at the beginning of a text."""


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every pattern that a module of ours holds."""
    for module in pkgutil.walk_packages(sft.__path__, "sft."):
        if ".rank" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]
            for pattern in held:
                if isinstance(pattern, re.Pattern):
                    yield f"{module.name}.{name}", pattern


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_pattern_of_ours_takes_forever() -> None:
    """A pattern that is quadratic takes hours for these texts, a linear one milliseconds."""
    pieces = [
        "eyJ-",
        "sk-",
        "a:",
        "token",
        "{{",
        "${",
        "bearer ",
        "://",
        "a.b-",
        "a=",
        "<think>",
        "\n",
        *string.punctuation,
    ]
    texts = [piece * (200_000 // len(piece)) for piece in [*pieces, "a", "A", "0", " "]]
    checked = 0
    for name, pattern in patterns():
        for text in texts:
            subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
            pattern.match(subject)
            if name not in AT_THE_BEGINNING:
                pattern.search(subject)
        checked += 1
    assert checked > 40


def test_a_run_goes_on_where_its_log_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    handler, logger = to_file(Path("/dev/full")), logging.getLogger("sft.runner")
    try:
        logger.info("dataset starts")
        logger.info("dataset ended")
    finally:
        logging.getLogger("sft").removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
    assert capsys.readouterr().err == ("\nwarning: /dev/full is not complete: [Errno 28] No space left on device\n")
