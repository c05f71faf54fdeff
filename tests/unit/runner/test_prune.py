"""What is pruned, and what is not."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from sft.errors import StoreError
from sft.runner.prune import TRASH_SECONDS, prune
from sft.store import ANSWERS, Store
from tests.support.store import publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.open()
    return made


def test_prune_keeps_what_is_needed_and_the_rest_for_a_week(store: Store) -> None:
    kept, gone = publish(store, "k1"), publish(store, "k2")
    store.staging("train", "abandoned", resume=True)
    needed = {("model", "k1")}
    dry = prune(store, lambda: needed, dry_run=True)
    assert gone.path.exists()
    assert prune(store, lambda: needed, dry_run=False) == dry
    assert store.entries() == [kept]
    assert not list((store.root / ".staging").iterdir())
    [trashed] = store.root.glob(".trash/*")
    (trashed / "model" / "k2").rename(gone.path)
    assert store.find("model", "k2") == gone
    long_ago = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(time.time() - TRASH_SECONDS - 60))
    trashed.rename(trashed.with_name(long_ago))
    (store.root / ".trash" / "somebody's").mkdir()
    assert prune(store, lambda: {*needed, ("model", "k2")}, dry_run=False).num_expired == 1
    assert [path.name for path in store.root.glob(".trash/*")] == ["somebody's"]


def test_prune_keeps_the_answers_of_models_that_are_needed(store: Store) -> None:
    needed, gone = store.answers / ("a" * 64) / "settings", store.answers / ("b" * 64) / "settings"
    for folder in (needed, gone):
        folder.mkdir(parents=True)
        (folder / "some.jsonl").write_text("[]\n")
    pruned = prune(store, lambda: {(ANSWERS, "a" * 64)}, dry_run=False, now=True)
    assert [path for path, _ in pruned.removed] == [gone.parent]
    assert (needed / "some.jsonl").exists()
    assert not gone.parent.exists()


def test_prune_removes_at_once_if_it_is_told_to(store: Store) -> None:
    publish(store)
    prune(store, set, dry_run=False)
    publish(store)
    pruned = prune(store, set, dry_run=False, now=True)
    assert (len(pruned.removed), pruned.num_expired) == (1, 1)
    assert not list(store.root.glob(".trash/*"))


def test_prune_leaves_alone_what_the_store_has_not_made(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (store.root / "model").mkdir()
    (store.root / "model" / "link").symlink_to(tmp_path / "precious")
    (store.root / "notes" / "mine").mkdir(parents=True)
    shutil.copytree(publish(store).path, store.root / "model" / "copied")
    pruned = prune(store, lambda: {("model", "k1")}, dry_run=False, now=True)
    assert pruned.removed == ()
    assert [path.name for path in pruned.foreign] == ["copied", "link", "mine"]
    assert all(path.exists() for path in pruned.foreign)


def test_prune_refuses_while_a_run_is_at_work(store: Store) -> None:
    with store.in_use(), pytest.raises(StoreError, match="a run is using the store"):
        prune(store, set, dry_run=False)
