"""`sft preview`: what the tokenize stage made, for a person."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import records, sft

pytestmark = pytest.mark.slow
SMALL = ["model.scratch.hidden_size=32", "dataset.uri=synthetic://spell-numbers?rows=60"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quickstart was tokenized already."""
    folder = tmp_path_factory.mktemp("preview")
    answer = sft("run", "quickstart", "--until", "tokenize", *SMALL, cwd=folder)
    assert answer.status == 0, answer.err
    return folder


@pytest.mark.long
def test_it_shows_what_the_store_has_and_writes_no_record(folder: Path) -> None:
    before = [path.stat().st_mtime_ns for path in (folder / "runs").glob("*/run.json")]
    answer = sft("preview", "quickstart", "-n", "2", *SMALL, "--json", cwd=folder)
    assert answer.status == 0, answer.err
    samples = json.loads(answer.out)
    [tokens] = (folder / "runs" / "store").glob("tokenize/*/data.jsonl")
    rows = [json.loads(line) for line in tokens.read_text().splitlines()[:2]]
    for sample, row in zip(samples, rows, strict=True):
        assert [id_ for piece in sample["pieces"] for id_ in piece["token_ids"]] == row["input_ids"]
        loss = [id_ for piece in sample["pieces"] if piece["is_loss"] for id_ in piece["token_ids"]]
        assert loss == [label for label in row["labels"] if label != -100]
        assert sample["pieces"][-2]["text"] == "<|im_end|>"
    assert before == [path.stat().st_mtime_ns for path in (folder / "runs").glob("*/run.json")]


@pytest.mark.long
def test_in_a_pipe_the_loss_stands_in_brackets_and_nothing_is_coloured(folder: Path) -> None:
    answer = sft("preview", "quickstart", *SMALL, "-n", "1", "--html", "page.html", cwd=folder)
    assert "<|im_start|>assistant\n⟦" in answer.out
    assert "<|im_end|>⟧" in answer.out
    assert "\x1b" not in answer.out
    assert answer.out.count("sample ") == 1
    assert 'class="loss special">&lt;|im_end|&gt;</span>' in (folder / "page.html").read_text()


@pytest.mark.long
@pytest.mark.parametrize(("no_color", "is_colored"), [("", True), ("1", False)])
def test_on_a_terminal_the_loss_is_green_unless_no_color_is_set(folder: Path, no_color: str, is_colored: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sft", "preview", "quickstart", "-n", "1", *SMALL]
    environment = {**os.environ, "NO_COLOR": no_color}
    with subprocess.Popen(command, cwd=folder, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        text = read_all(ours)
    assert process.returncode == 0
    assert ("\x1b[32m" in text) is is_colored
    assert ("⟦" in text) is not is_colored


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # the terminal's other side is closed
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


@pytest.mark.long
def test_what_the_store_lacks_is_made_first(folder: Path) -> None:
    answer = sft("preview", "quickstart", "-n", "1", *SMALL, "dataset.seed=7", cwd=folder)
    assert answer.status == 0, answer.err
    assert "✓ tokenize" in answer.out
    assert "⟦" in answer.out
    assert {step["name"] for record in records(folder / "runs") for step in record["steps"]} == {
        "dataset",
        "model",
        "tokenize",
    }


def test_no_samples_are_asked_for(folder: Path) -> None:
    answer = sft("preview", "quickstart", "-n", "0", cwd=folder)
    assert answer.status == 2
    assert "-n=0: must be at least 1" in answer.err
