"""Wall clock and memory of ``sft run quickstart`` after installation, and of the commands that must be instant.

    python benchmarks/quickstart.py

The budget: 2 minutes and 3 GB for the run on 2 cores, 3 s for the same command again, 1 s for a plan, 0.3 s for help.
Memory is the sum over the process tree of proportional set sizes (``/proc/PID/smaps_rollup``), so pages that
processes share count once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SFT = [sys.executable, "-m", "sft"]


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'command':<28}{'seconds':>9}{'peak MB':>9}{'budget':>14}")
        for arguments, budget in (
            (["--help"], "0.3 s"),
            (["plan", "quickstart"], "1 s"),
            (["run", "quickstart"], "120 s, 3000 MB"),
            (["run", "quickstart"], "3 s"),
            (["plan", "quickstart"], "1 s"),
        ):
            seconds, megabytes = measure([*SFT, *arguments], Path(folder))
            print(f"{'sft ' + ' '.join(arguments):<28}{seconds:>9.2f}{megabytes:>9.0f}{budget:>14}")


def measure(command: list[str], cwd: Path) -> tuple[float, float]:
    """Seconds of a command and the largest memory of its process tree, looked at ten times a second; later less often.

    To look takes up to 20 ms of a core: of what lasts minutes not more than a hundredth.
    """
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(proportional_megabytes, tree(process.pid))))
        elapsed = time.monotonic() - began
        time.sleep(0.01 if elapsed < 5 else 0.1 if elapsed < 60 else 2.0)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - began, peak


def tree(root: int) -> set[int]:
    """Return a process and all its descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def proportional_megabytes(pid: int) -> float:
    """Proportional set size; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1000


if __name__ == "__main__":
    main()
