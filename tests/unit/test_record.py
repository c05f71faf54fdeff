"""run.json: whole, readable again, and without secrets."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from sft import record


def make(**changes: object) -> record.RunRecord:
    facts: dict[str, object] = {
        "run_id": "r",
        "status": "running",
        "recipe": "r.yaml",
        "command": ["sft", "run", "r"],
        "cwd": "/",
        "started_at": record.now(),
        "config": {},
        "git_commit": None,
        "versions": record.versions(),
        "machine": record.machine(),
        "steps": [record.StepRecord(name="dataset")],
    }
    return record.RunRecord(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rec = make(config={"dataset": {"uri": "x"}})
    rec.save(tmp_path)
    assert record.load(tmp_path) == rec
    assert [path.name for path in tmp_path.iterdir()] == [record.NAME]


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-token-1")
    rec = make(command=["sft", "x=canary-token-1"], config={"uri": "s3://me:canary-word@host/key"})
    rec.save(tmp_path)
    text = (tmp_path / record.NAME).read_text()
    assert "canary" not in text
    assert "***@host/key" in text


def test_no_record_and_a_cut_record_are_none(tmp_path: Path) -> None:
    assert record.load(tmp_path) is None
    (tmp_path / record.NAME).write_text('{"schema": 1')
    assert record.load(tmp_path) is None


def test_the_commit_says_when_files_differ(tmp_path: Path) -> None:
    assert record.git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "f").write_text("1")
    subprocess.run([*git, "add", "f"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = record.git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "f").write_text("2")
    assert record.git_commit(tmp_path) == f"{commit}-dirty"


def test_versions_name_what_takes_part() -> None:
    assert {"python", "sft-runner", "torch", "instructlab-training"} <= set(record.versions())


def test_a_record_is_written_on_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is room only for what was kept back, writing works once that is gone."""
    run = make()
    with record.reserved(tmp_path):
        [kept] = tmp_path.iterdir()
        write = record.write_atomically

        def full(path: Path, content: bytes) -> None:
            if kept.exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, content)

        monkeypatch.setattr(record, "write_atomically", full)
        run.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [record.NAME]
