"""A run root, and what else is done to it while a run is at work: nothing is lost, and each command ends in a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import records, sft, start, steps

TURNS = [[{"role": "user", "content": str(n)}, {"role": "assistant", "content": "y"}] for n in range(40)]
ROWS = b"".join(json.dumps({"messages": turns}).encode() + b"\n" for turns in TURNS)


class Source(ThreadingHTTPServer):
    """A server of rows that keeps back the second half until it is told to `go_on`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.is_reached = threading.Event()
        self.go_on = threading.Event()

    @property
    def run(self) -> list[str]:
        """The command that reads them."""
        uri = f"http://127.0.0.1:{self.server_address[1]}/rows.jsonl"
        return ["run", "quickstart", "dataset=local", f"dataset.uri={uri}", "--until", "dataset"]


class _Handler(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ROWS)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.headers.get("Range") == "bytes=0-0":  # asks for the version
            return
        self.wfile.write(ROWS[:1000])
        self.server.is_reached.set()
        self.server.go_on.wait(60)
        self.wfile.write(ROWS[1000:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def source() -> Iterator[Source]:
    with Source() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@contextmanager
def at_work(source: Source, cwd: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has read half of its rows, and reads the rest once the block ends or `source.go_on` is set."""
    process = start(*source.run, *overrides, cwd=cwd)
    try:
        assert source.is_reached.wait(60)
        yield process
        source.go_on.set()
    finally:
        process.kill() if process.poll() is None and not source.go_on.is_set() else None


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    return process.returncode, said


def datasets(root: Path) -> list[Path]:
    return list(root.glob("runs/store/dataset/*"))


def test_two_runs_of_one_recipe_make_everything_once(source: Source, tmp_path: Path) -> None:
    with at_work(source, tmp_path) as first:
        second = start(*source.run, cwd=tmp_path)
        assert second.stdout is not None
        line = next(line for line in second.stdout if "the same run is at work in another process" in line)
        assert "runs/quickstart-" in line
    assert end(first)[0] == 0
    status, said = end(second)
    assert (status, "nothing to do" in said) == (0, True)
    assert (len(datasets(tmp_path)), len(records(tmp_path / "runs"))) == (1, 1)


def test_two_runs_share_what_one_of_them_is_making(source: Source, tmp_path: Path) -> None:
    with at_work(source, tmp_path) as first:
        second = start(*source.run, "training.seed=7", cwd=tmp_path)
        while not list(tmp_path.glob("runs/quickstart-*/run.json"))[1:]:
            assert second.poll() is None
    assert (end(first)[0], end(second)[0]) == (0, 0)
    assert len(datasets(tmp_path)) == 1
    assert sorted(steps(record)["dataset"]["reused"] for record in records(tmp_path / "runs")) == [False, True]


def test_nothing_is_pruned_while_a_run_is_at_work(source: Source, tmp_path: Path) -> None:
    with at_work(source, tmp_path) as run:
        answer = sft("store", "prune", "--now", cwd=tmp_path)
        assert answer.status == 1
        assert answer.err.startswith("error: a run is using the store")
    assert end(run)[0] == 0
    assert sft("store", "prune", "--now", cwd=tmp_path).status == 0
    assert len(datasets(tmp_path)) == 1  # its record needs it


def test_a_run_at_work_is_verified_as_far_as_it_is(source: Source, tmp_path: Path) -> None:
    with at_work(source, tmp_path) as run:
        [folder] = tmp_path.glob("runs/quickstart-*")
        answer = sft("verify", str(folder), cwd=tmp_path)
        assert "Traceback" not in answer.err
        assert "running" in answer.out + answer.err
    assert end(run)[0] == 0
    assert sft("verify", str(folder), cwd=tmp_path).status == 0


@pytest.mark.long
def test_a_repeated_run_keeps_what_it_makes_from_being_pruned(source: Source, tmp_path: Path) -> None:
    source.go_on.set()
    assert sft(*source.run, cwd=tmp_path).status == 0
    [folder] = tmp_path.glob("runs/quickstart-*")
    source.go_on.clear()
    source.is_reached.clear()
    shutil.rmtree(datasets(tmp_path)[0])
    again = start("run", "--from", str(folder), "--until", "dataset", cwd=tmp_path)
    assert source.is_reached.wait(60)
    assert sft("store", "prune", "--now", cwd=tmp_path).err.startswith("error: a run is using the store")
    source.go_on.set()
    status, said = end(again)
    assert (status, "the same as recorded: dataset" in said) == (0, True)


@pytest.mark.long
@pytest.mark.parametrize("what", ["moved", "removed", "read-only"])
def test_a_run_root_that_is_taken_away_ends_the_run_in_a_sentence(what: str, source: Source, tmp_path: Path) -> None:
    if what == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    runs, moved = tmp_path / "runs", tmp_path / "moved"
    with at_work(source, tmp_path) as run:
        if what == "moved":
            runs.rename(moved)
        elif what == "removed":
            while runs.exists():  # the run may be making a file
                shutil.rmtree(runs, ignore_errors=True)
        else:
            for folder in [runs, *(path for path in runs.rglob("*") if path.is_dir())]:
                folder.chmod(0o555)
    status, said = end(run)
    for folder in [runs, *runs.rglob("*")] if what == "read-only" else []:
        folder.chmod(0o755)
    assert status == 1
    assert "run.json: can't be written" in said
    assert "was moved, removed, filled or made read-only while the run was at work" in said
    if what == "moved":
        moved.rename(runs)
    assert sft(*source.run, cwd=tmp_path).status == 0
    assert len(datasets(tmp_path)) == 1
