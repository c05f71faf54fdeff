"""Whether a run is at work."""

from __future__ import annotations

from pathlib import Path

import filelock

from sft import runner


def test_a_run_that_was_killed_is_not_at_work(tmp_path: Path) -> None:
    assert not runner.is_running(tmp_path)
    assert not [*tmp_path.iterdir()], "the run may be somebody else's"
    with filelock.FileLock(tmp_path / ".lock"):
        assert runner.is_running(tmp_path)
    assert not runner.is_running(tmp_path)
