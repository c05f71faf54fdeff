"""A process ends with another one, however that one ends."""

from __future__ import annotations

import signal
import subprocess
import sys

_FOLLOWS = "import sys, time\nfrom sft.adapters.os.child import die_with\ndie_with(int(sys.argv[1]))\ntime.sleep(60)\n"


def test_a_process_ends_with_one_that_is_not_its_parent() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as other,
        subprocess.Popen([sys.executable, "-c", _FOLLOWS, str(other.pid)]) as follower,
    ):
        other.kill()
        assert follower.wait(timeout=20) == -signal.SIGKILL


def test_a_process_does_not_outlive_one_that_was_gone_before() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with subprocess.Popen([sys.executable, "-c", _FOLLOWS, str(gone.pid)]) as follower:
        assert follower.wait(timeout=20) == -signal.SIGKILL
