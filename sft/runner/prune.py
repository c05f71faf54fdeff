"""Removes from a store what no run needs, as far as that can be proved: by stage and key, not by where things lie."""

from __future__ import annotations

import calendar
import re
import shlex
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft import record
from sft.artifacts import MANIFEST_NAME
from sft.errors import StoreError
from sft.file_locks import local_lock_option
from sft.files import read_document
from sft.self_hashed_json import NOT_JSON
from sft.store import ANSWERS, Store

TRASH_SECONDS = 7 * 24 * 3600.0
"""How long what was pruned can be moved back."""
_TRASHED_AT = "%Y-%m-%dT%H%M%SZ"
_PLACE = re.compile(r"/([a-z]{1,20})/([0-9a-f]{20})(?![0-9a-f])")
"""Stage and key in the path of an artifact."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` did, or would do.

    Attributes:
        removed: Folders of unneeded artifacts and killed tries, with their bytes.
        foreign: Folders and files that lie in the store and are not its own: they stay.
        num_expired: Folders of the trash that were removed for good.
    """

    removed: tuple[tuple[Path, int], ...]
    foreign: tuple[Path, ...]
    num_expired: int


def needed_by(root: Path) -> set[tuple[str, str]]:
    """Return stage and key of all artifacts that records under a run root refer to, wherever that lay when they did.

    Those are the steps of each run, those that an interrupted run goes on from, and those that a setting names: a model
    or a dataset in the store is another run's base.

    Raises:
        StoreError: A record can't be read.
    """
    needed = set()
    folders = [folder for folder in root.iterdir() if folder.is_dir() and folder.name != "store"]
    for file in sorted(file for folder in folders for file in folder.rglob(record.NAME)):
        try:
            content = read_document(file)
            run = msgspec.json.decode(content, type=record.RunRecord)
        except (*NOT_JSON, OSError) as error:
            message = f"{file}: can't be read ({error}), so what it needs is not known, and nothing is pruned"
            raise StoreError(message, fix=f"mend or move away {shlex.quote(str(file.parent))}") from error
        needed |= {(step.name.partition(":")[0], step.key) for step in run.steps if step.key}
        needed |= {(ANSWERS, digest) for step in run.steps for digest in step.inputs.values()}
        needed |= {(ANSWERS, str(step.facts.get("model_digest"))) for step in run.steps}  # an epoch's model
        needed |= {(stage, key) for stage, key in _PLACE.findall(content.decode(errors="replace"))}
    return needed


def prune(
    store: Store, find_needed: Callable[[], Collection[tuple[str, str]]], *, dry_run: bool, now: bool = False
) -> Pruned:
    """Move every artifact and every killed try that is not needed into the trash, and empty that of a week ago.

    Only folders that this store made are moved: those with a manifest that names their place, and killed tries.

    Args:
        store: The store.
        find_needed: Returns stage and key of what stays; called when no run is at work, so that none is missed.
        dry_run: Move and remove nothing, only say what would go.
        now: Remove at once, what lies in the trash included.

    Raises:
        StoreError: A run is at work on this store, or would not be seen from here, or the store is a
            link: another run root's records may need it.
    """
    if store.root.is_symlink():
        fix = f"prune where it lies: {shlex.quote(str(store.root.resolve().parent))}"
        raise StoreError(f"{store.root}: is a link, so the records of another run root may need it", fix=fix)
    if option := local_lock_option(store.root):
        message = f"{store.root}: is mounted with {option}, so a run of another machine would not be seen"
        raise StoreError(message, fix="mount it with local_lock=none, or prune where it lies")
    with store.alone():
        needed = find_needed()
        candidates = _candidates(store)
        made = {path: place for path in candidates if (place := _place(store, path))}
        unneeded = [path for path, place in made.items() if place not in needed]
        foreign = tuple(path for path in candidates if path not in made)
        expired = [path for path in sorted(store.trash.glob("*")) if now or _is_expired(path)]
        pruned = Pruned(tuple((path, _num_bytes(path)) for path in unneeded), foreign, len(expired))
        if not dry_run:
            bin_of_today = store.trash / time.strftime(_TRASHED_AT, time.gmtime())
            for path in unneeded:
                if now:
                    shutil.rmtree(path)
                else:
                    target = bin_of_today / path.relative_to(store.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.rename(target)
            for path in expired:
                shutil.rmtree(path)
    return pruned


def _candidates(store: Store) -> list[Path]:
    return sorted([*store.root.glob("[!.]*/*"), *store.staging_root.glob("*"), *store.answers.glob("*")])


def _place(store: Store, path: Path) -> tuple[str, str] | None:
    """Return stage and key of an artifact or of a killed try; None of what this store has not made.

    Of a model's answers they are ``.answers`` and the digest of the model's artifact.
    """
    if path.is_symlink() or not path.is_dir():
        return None
    if path.parent == store.staging_root:
        stage, _, key = path.name.rpartition("-")
        return (stage, key) if stage else None
    if path.parent == store.answers:
        return path.parent.name, path.name
    try:
        facts = msgspec.json.decode(read_document(path / MANIFEST_NAME), type=dict[str, Any])
    except (*NOT_JSON, OSError):
        return None
    place = path.parent.name, path.name
    return place if (facts.get("stage"), facts.get("key")) == place else None


def _is_expired(path: Path) -> bool:
    try:
        trashed_at = calendar.timegm(time.strptime(path.name, _TRASHED_AT))
    except ValueError:
        return False  # not ours
    return time.time() - trashed_at > TRASH_SECONDS


def _num_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
