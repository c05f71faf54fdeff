"""What the kernel is told when a run publishes, and in which order: bytes, names, the move, its folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CALL = re.compile(r"(?P<name>fsync|fdatasync|rename|renameat2?)\((?P<rest>.*)\)\s+= 0")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_every_file_of_an_artifact_reaches_the_disk_before_its_name_does(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    strace = [
        "strace",
        "-f",
        "-y",
        "-s",
        "4096",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2",
        "-o",
        str(trace),
    ]
    command = [sys.executable, "-m", "sft", "run", "quickstart", "--until", "dataset"]
    done = subprocess.run([*strace, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    calls = [(match["name"], match["rest"]) for line in trace.read_text().splitlines() if (match := CALL.search(line))]
    [artifact] = tmp_path.glob("runs/store/dataset/*")
    moved = next(place for place, (name, rest) in enumerate(calls) if "rename" in name and str(artifact) in rest)
    staging = re.findall(r'"([^"]+)"', calls[moved][1])[0]
    synced = [re.findall(r"<([^>]+)>", rest)[0] for name, rest in calls[:moved] if name == "fsync"]
    files = [path.relative_to(artifact) for path in artifact.rglob("*") if path.is_file()]
    assert files
    assert {os.path.join(staging, file) for file in files} <= set(synced)  # noqa: PTH118
    assert synced[-1] == staging
    after = [re.findall(r"<([^>]+)>", rest)[0] for name, rest in calls[moved:] if name == "fsync"]
    assert after[0] == str(artifact.parent)
    last = max(place for place, (name, rest) in enumerate(calls) if "rename" in name and "run.json" in rest)
    assert ".run.json." in calls[last - 1][1]  # synced before the move
    assert re.search(r"runs/quickstart-[0-9a-f]+>", calls[last + 1][1])
