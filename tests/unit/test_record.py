"""run.json: whole, readable again, and without secrets."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from sft import record
from sft.errors import StageError
from tests.support.crashes import Disk


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

        def full(path: Path, content: bytes, *, is_lasting: bool) -> None:
            if kept.exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, content, is_lasting=is_lasting)

        monkeypatch.setattr(record, "write_atomically", full)
        run.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [record.NAME]


def test_after_a_cut_of_the_power_a_record_is_the_last_or_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", tmp_path / "copies")

    def work() -> None:
        for run_id in ("first", "second"):
            make(run_id=run_id).save(disk.root)

    disk.record(monkeypatch, work)
    seen = [rec.run_id if (rec := record.load(folder)) else None for _, folder in disk.states()]
    for each in (seen[::2], seen[1::2]):  # all names, and those that are sure
        assert each == sorted(each, key=[None, "first", "second"].index)  # never back, never torn
    assert seen[-2:] == ["second", "second"]
    assert not any(
        (folder / record.NAME).exists() for (_, folder), rec in zip(disk.states(), seen, strict=True) if not rec
    )


def test_without_room_for_its_record_a_run_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StageError, match="no room for the record of a run"), record.reserved(tmp_path):
        pytest.fail("begun")
    assert not list(tmp_path.iterdir())


def test_where_no_run_is_the_nearest_beside_it_is_named(tmp_path: Path) -> None:
    for name in ("tickets-1a2b3c4d", "lamps-5e6f7a8b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").touch()
    (tmp_path / "runs" / "lamps").mkdir()
    meant = f"did you mean {tmp_path / 'runs' / 'tickets-1a2b3c4d'}?"
    assert record.nearest_run(tmp_path / "runs" / "tickets-1a2b", "a run") == meant
    assert record.nearest_run(tmp_path / "runs" / "zebra", "a run") == "a run"
    assert record.nearest_run(tmp_path / "runs" / "lamps", "a run") == "a run"  # it is there, and is none
    assert record.nearest_run(tmp_path / "none" / "tickets-1a2b3c4d", "a run") == "a run"
