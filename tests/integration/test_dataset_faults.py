"""The dataset stage when the disk is full, the process is killed, or the folder is strange."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.adapters import local_files, storage
from sft.config.schema import DatasetConfig
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset
from tests.support.command import Answer, records, sft, start, steps

BROKEN_MODEL = ["model=hub", "model.name_or_path=."]


def write_rows(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            turns = [{"role": "user", "content": f"{number} {'x' * 200}"}, {"role": "assistant", "content": "y"}]
            file.write(json.dumps({"messages": turns}) + "\n")


def run(cwd: Path) -> Answer:
    return sft("run", "quickstart", "dataset=local", "dataset.uri=rows.jsonl", *BROKEN_MODEL, cwd=cwd)


@pytest.mark.long
def test_a_full_disk_is_said_and_nothing_half_written_is_published(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 20_000)
    limited = (
        "import resource, signal, sys; from sft.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "run", "quickstart", "dataset=local", "dataset.uri=rows.jsonl"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "error: dataset: File too large" in answer.stderr
    assert "try: free space" in answer.stderr
    assert not list(tmp_path.glob("runs/store/dataset/*"))
    [record] = records(tmp_path / "runs")
    assert steps(record)["dataset"]["status"] == "failed"
    run(tmp_path)
    assert steps(records(tmp_path / "runs")[-1])["dataset"]["facts"]["num_rows"] == 20_000


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4])
def test_killed_at_any_moment_the_next_run_is_right(seconds: float, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 200_000)
    process = start("run", "quickstart", "dataset=local", "dataset.uri=rows.jsonl", *BROKEN_MODEL, cwd=tmp_path)
    while not list(tmp_path.glob("runs/store/.staging/dataset-*/*")) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run(tmp_path)
    [folder] = tmp_path.glob("runs/store/dataset/*")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["eval.jsonl", "manifest.json", "rejected.jsonl", "train.jsonl"]
    counts = [len((folder / name).read_bytes().splitlines()) for name in ("train.jsonl", "eval.jsonl")]
    assert counts == [180_000, 20_000]


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    with pytest.raises(DataError, match="symbolic links"):
        storage.find(str(tmp_path / "a.jsonl"), {})


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, 10)
    [file] = storage.find(str(path), {})

    def read() -> None:
        with local_files.opened(file) as stream:
            stream.read()
            os.utime(path, ns=(0, 0))

    with pytest.raises(DataError, match="changed while it was read"):
        read()


def test_several_files_make_one_dataset_in_name_order(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("b", "a", "c"):
        turns = [{"role": "user", "content": name}, {"role": "assistant", "content": "y"}]
        (folder / f"{name}.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    data = dataset(DatasetConfig(uri=str(folder), train_split=1.0), out, Progress(quiet=True))
    asked = [json.loads(line)["messages"][0]["content"] for line in data.train_file.read_text().splitlines()]
    assert asked == ["a", "b", "c"]
