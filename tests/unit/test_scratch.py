"""Folders of a command that works, and of one that was killed."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from sft.scratch import scratch

HOLD = "import sys; from sft.scratch import scratch\nwith scratch('data') as f: print(f, flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_is_private_and_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with suppress(KeyError), scratch("data") as folder:
        assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
        (folder / "rows").write_text("x")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_command_left_is_removed_by_the_next_one_and_what_is_in_use_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout
        left = Path(other.stdout.readline().strip())
        with scratch("models"):
            assert left.is_dir()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert left.is_dir()
        with scratch("models") as folder:
            assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_another_command_took_for_one_left_behind_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_really, taken = fcntl.flock, list[Path]()

    def lock_late(file: IO[bytes], how: int) -> None:
        if not taken:  # the other command locked and removed it first
            [folder] = tmp_path.iterdir()
            shutil.rmtree(folder)
            taken.append(folder)
        lock_really(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with scratch("data") as folder:
        assert folder.is_dir()
        assert folder != taken[0]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_removed_through_a_link_or_without_our_mark(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".in-use").touch()
    (tmp_path / "sft-link").symlink_to(tmp_path / "mine")
    (tmp_path / "sft-notes").mkdir()
    with scratch("data"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "sft-link", "sft-notes"]
    assert (tmp_path / "mine" / ".in-use").exists()
