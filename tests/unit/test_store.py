"""An artifact appears whole or not at all, once, whoever else is at work."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from sft.artifacts import EvalReport, ModelArtifact, digest_of, hash_files
from sft.errors import StoreError
from sft.scores import Score
from sft.store import Entry, Store
from tests.support.crashes import Disk
from tests.support.store import publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.open()
    return made


def test_what_was_published_is_found_with_its_types(store: Store) -> None:
    entry = publish(store)
    found = store.find("model", "k1")
    assert found == entry
    assert found.artifact == ModelArtifact(
        root=store.root / "model" / "k1",
        digest=entry.manifest.digest,
        source="scratch",
        revision="",
        external_dir=Path("/models/x"),
        num_parameters=3,
    )


def test_nested_facts_come_back_typed(store: Store) -> None:
    out = store.staging("evaluate", "k", resume=False)
    score = Score(task="t", metric="acc", value=0.5, stderr=None, num_samples=4, higher_is_better=True)
    report = EvalReport(root=out, model_digest="m", scores=(score,))
    store.publish("k", "evaluate", report, settings={}, inputs={}, seconds=0.0)
    found = store.find("evaluate", "k")
    assert found is not None
    assert isinstance(found.artifact, EvalReport)
    assert found.artifact.scores == (score,)


def test_equal_content_has_an_equal_digest_whatever_the_logs_say(store: Store) -> None:
    assert publish(store, "k1").manifest.digest == publish(store, "k2").manifest.digest


def test_other_content_has_another_digest(store: Store) -> None:
    assert publish(store, "k1").manifest.digest != publish(store, "k2", "other").manifest.digest


def test_a_digest_is_what_sha256sum_would_give(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    # printf 'hello' | sha256sum; then: sha256sum a | sha256sum
    line = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  a\n"
    import hashlib

    assert digest_of(hash_files(tmp_path)) == hashlib.sha256(line.encode()).hexdigest()


def test_what_is_being_made_is_not_found(store: Store) -> None:
    (store.staging("model", "k1", resume=False) / "model.safetensors").write_text("half")
    assert store.find("model", "k1") is None
    assert store.entries() == []


def test_staging_is_wiped_unless_it_resumes(store: Store) -> None:
    (store.staging("train", "k", resume=False) / "state").write_text("x")
    assert (store.staging("train", "k", resume=True) / "state").exists()
    assert not (store.staging("train", "k", resume=False) / "state").exists()


def test_all_of_an_artifact_is_on_the_disk_before_it_appears(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(handle: int) -> None:
        events.append(("fsync", Path(f"/dev/fd/{handle}").resolve().name))
        fsync(handle)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(("rename", target.name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    publish(store)
    place = events.index(("rename", "k1"))
    before = [name for what, name in events[:place] if what == "fsync"]
    assert before.pop(0) == "store"  # which has a new folder of artifacts
    assert {*before[:3]} == {"model.safetensors", "manifest.json", "log.txt"}
    assert before[3:] == ["logs", "model-k1"]
    assert events[place + 1 :] == [("fsync", "model")]


@pytest.mark.parametrize("damage", ["cut", "remove", "manifest"])
def test_a_damaged_artifact_is_an_error_that_says_what_to_remove(store: Store, damage: str) -> None:
    folder = publish(store).path
    if damage == "cut":
        (folder / "model.safetensors").write_text("w")
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="rm -r"):
        store.find("model", "k1")


def test_a_root_that_is_a_file_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="run_root"):
        Store(tmp_path / "file" / "store").open()


def _make_under_lock(root: Path, started: Path) -> None:
    store = Store(root)
    with store.lock("model", "k1", waiting=lambda: None):
        if store.find("model", "k1") is None:
            (started / str(time.time_ns())).touch()
            time.sleep(0.3)
            publish(store)


def test_four_processes_make_a_key_once(store: Store, tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_make_under_lock, args=(store.root, started)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len(list(started.iterdir())) == 1
    assert len(store.entries()) == 1


def share(store: Store, first: Entry) -> Entry:
    out = store.staging("model", "k2", resume=False)
    (out / "model.safetensors").hardlink_to(first.path / "model.safetensors")
    made = ModelArtifact(root=out, source="scratch", revision="", external_dir=None, num_parameters=3)
    return store.publish("k2", "model", made, settings={}, inputs={}, seconds=0.0, shared=[first.path])


def test_a_linked_file_is_not_hashed_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(store)
    os.utime(first.path / "model.safetensors", (0, 0))
    monkeypatch.delattr("sft.artifacts.base.sha256_file")
    assert share(store, first).manifest.files == first.manifest.files


def test_a_linked_file_that_was_written_to_is_an_error(store: Store) -> None:
    first = publish(store)
    (first.path / "model.safetensors").write_text("weighty")
    with pytest.raises(StoreError, match=r"model\.safetensors: changed after it was made"):
        share(store, first)


def test_a_manifest_holds_no_secret(store: Store) -> None:
    out = store.staging("model", "k", resume=False)
    made = ModelArtifact(root=out, source="s3://me:canary@host", revision="", external_dir=None, num_parameters=3)
    entry = store.publish("k", "model", made, settings={"uri": "s3://me:canary@host"}, inputs={}, seconds=0.0)
    assert "canary" not in (entry.path / "manifest.json").read_text()


def test_after_a_cut_of_the_power_an_artifact_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", tmp_path / "copies")

    def work() -> None:
        store = Store(disk.root / "runs" / "store")
        store.open()
        publish(store)

    disk.record(monkeypatch, work)
    found = []
    for moment, folder in disk.states():
        entry = Store(folder / "runs" / "store").find("model", "k1")
        found.append(entry is not None)
        if entry:
            assert hash_files(entry.path) == entry.manifest.files, moment
    assert found[-2:] == [True, True]  # what was published lasts, whatever the disk does with names
    assert not found[0]
    again = Store(folder / "runs" / "store")
    again.open()
    assert publish(again, "k2").artifact.digest  # and its store can be used


def test_without_its_syncs_a_cut_of_the_power_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", tmp_path / "copies")
    monkeypatch.setattr("sft.store._sync_all", lambda _: None)
    store = Store(disk.root / "store")
    store.open()
    disk.record(monkeypatch, lambda: publish(store))
    with pytest.raises(StoreError):
        [Store(folder / "store").find("model", "k1") for _, folder in disk.states()]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=r"run_root: .*store has no locks \(.*\n  try: run_root=FOLDER on another"):
        Store(tmp_path / "store").open()


def test_the_lock_of_a_store_in_use_is_one_that_nfs_can_share(store: Store) -> None:
    """Linux makes a shared lock on NFS one of fcntl, which needs a file that is open for reading (nfs(5), flock(2))."""
    with store._use() as file:
        assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def test_tries_of_other_keys_are_held_while_somebody_looks_at_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open()
    for key in ("own", "idle", "busy"):
        store.staging("train", key, resume=True)
    other = Store(tmp_path)
    with other.lock("train", "busy", lambda: None):
        with store.idle_tries("train", "own") as tries:
            assert [path.name for path in tries] == ["train-idle"]
            waits: list[int] = []

            def waiting() -> None:
                waits.append(1)
                raise TimeoutError

            with pytest.raises(TimeoutError), other.lock("train", "idle", waiting):
                pass
            assert waits
        with other.lock("train", "idle", lambda: None):
            pass
