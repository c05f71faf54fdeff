"""A supervised process: its status, its words when it fails, and that nothing of it is left behind."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from sft.adapters.os.process import child_error, describe_exit, run_module, supervise, tail
from sft.errors import StageError

CHILD = """
import sys
from sft.adapters.os import child
from sft.errors import DataError

def work(request):
    if request["do"] == "refuse":
        raise DataError("no rows", fix="add some")
    if request["do"] == "break":
        raise KeyError("x")
    if request["do"] == "vanish":
        sys.stderr.write("last words\\n")
        sys.stderr.flush()
        import os
        os._exit(7)
    return {"answer": request["number"] + 1}

child.main(work)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A child module's name."""
    (tmp_path / "worker_of_a_test.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
    return "worker_of_a_test"


def test_a_childs_result_comes_back(module: str, tmp_path: Path) -> None:
    result = run_module(module, {"do": "add", "number": 2}, folder=tmp_path / "child", what="adding")
    assert result == {"answer": 3}


def test_what_an_earlier_try_left_is_not_taken_for_an_answer(module: str, tmp_path: Path) -> None:
    folder = tmp_path / "child"
    folder.mkdir()
    (folder / "result.json").write_text('{"answer": "old"}')
    with pytest.raises(StageError, match="no rows"):
        run_module(module, {"do": "refuse"}, folder=folder, what="adding")


def test_an_error_on_purpose_keeps_its_words_and_its_fix(module: str, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        run_module(module, {"do": "refuse"}, folder=tmp_path / "child", what="adding")
    assert str(caught.value) == f"adding failed: no rows\n  try: add some\n  log: {tmp_path}/child/log.txt"


def test_a_bug_of_a_child_is_named_and_its_traceback_is_in_the_log(module: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"adding failed: KeyError: 'x'") as caught:
        run_module(module, {"do": "break"}, folder=tmp_path / "child", what="adding")
    assert caught.value.log is not None
    assert "Traceback" in caught.value.log.read_text()


def test_a_child_that_ends_without_a_word_shows_its_last_lines(module: str, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"adding ended with status 7 and left no error; its last lines:\n    last words"
    ):
        run_module(module, {"do": "vanish"}, folder=tmp_path / "child", what="adding")


def test_what_the_poll_raises_ends_the_process_and_its_children(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    grandchild = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(0.01)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"

    def poll() -> None:
        if beat.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise([sys.executable, "-c", code], log=tmp_path / "log.txt", poll=poll, poll_seconds=0.05)
    size = beat.stat().st_size
    time.sleep(0.2)
    assert beat.stat().st_size == size


def test_a_process_gets_what_is_added_to_the_environment_and_no_input(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['ADDED'], repr(sys.stdin.read())); sys.exit(3)"
    status = supervise([sys.executable, "-c", code], log=tmp_path / "logs" / "log.txt", env={"ADDED": "yes"})
    assert status == 3
    assert (tmp_path / "logs" / "log.txt").read_text() == "yes ''\n"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (-signal.SIGKILL, "was killed by SIGKILL (perhaps out of memory)"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
)
def test_a_status_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words


def test_an_error_without_a_fix_has_none(tmp_path: Path) -> None:
    error = child_error({"type": "KeyError", "message": "'x'"}, what="adding", log=tmp_path / "log.txt")
    assert (error.message, error.fix) == ("adding failed: KeyError: 'x'", None)


def test_the_tail_of_a_log_is_its_last_lines_whatever_their_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"first\nsecond \n\xff\n")
    assert tail(log, lines=2) == "    second\n    \ufffd"


def test_a_library_that_hides_a_full_disk_is_read_through(tmp_path: Path) -> None:
    trace = "OSError: [Errno 28] No space left on device\n\nThe above exception was the direct cause of …"
    facts = {"type": "DatasetGenerationError", "message": "An error occurred", "fix": None, "traceback": trace}
    error = child_error(facts, what="training", log=tmp_path / "log.txt")
    assert error.message == "training failed: DatasetGenerationError: An error occurred (No space left on device)"
    assert error.fix == "free space, then repeat the command"


def test_a_variable_that_a_process_must_not_have_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_TEST_LEFT_OUT", "1")
    monkeypatch.setenv("SFT_TEST_KEPT", "2")
    ask = "import os; print(os.environ.get('SFT_TEST_LEFT_OUT'), os.environ.get('SFT_TEST_KEPT'))"
    supervise([sys.executable, "-c", ask], log=tmp_path / "log", without=["SFT_TEST_LEFT_OUT"])
    assert (tmp_path / "log").read_text() == "None 2\n"
