"""`sft store`: what the artifact store holds, and removing what no run's record refers to."""

from __future__ import annotations

import time
from pathlib import Path

from sft.errors import ConfigError, Problem
from sft.progress import Progress
from sft.runner.prune import needed_by, prune
from sft.store import Store


def execute(action: str, run_root: str, *, yes: bool, now: bool) -> int:
    """List or prune the store under a run root.

    Args:
        action: ``list`` or ``prune``.
        run_root: The folder that holds it.
        yes: Prune; without it nothing is moved, and what would be is said.
        now: Prune without the trash.

    Raises:
        ConfigError: A list is to remove something.
        StoreError: A record can't be read, so that what it needs is not known; or a run is at work.
    """
    if action == "list" and (yes or now):
        fix = f"sft store prune {'--now' if now else '--yes'}"
        raise ConfigError([Problem(key="sft store", rule="lists, and removes nothing", suggestion=fix)])
    root, progress = Path(run_root), Progress()
    if not (root / "store").is_dir():
        progress.say(f"no store in {root.absolute()}")
        return 0
    store = Store(root / "store")
    if action == "list":
        _list(store, progress)
        return 0
    needed = set[tuple[str, str]]()

    def find_needed() -> set[tuple[str, str]]:
        needed.update(needed_by(root))
        return needed

    outdated = store.outdated()
    pruned = prune(store, find_needed, dry_run=not (yes or now), now=now)
    verb = "removed" if now else "moved to the trash" if yes else "would go"
    for path, num_bytes in pruned.removed:
        progress.say(f"{verb}: {path} ({_size(num_bytes)})")
    for path in pruned.foreign:
        progress.say(f"left alone, not made by sft: {path}")
    total = _size(sum(num_bytes for _, num_bytes in pruned.removed))
    progress.say(f"{len(pruned.removed)} folders, {total}; kept what a run.json under {root} refers to")
    if yes and not now and pruned.removed:
        progress.say(f"they stay a week in {store.trash}, from where they can be moved back; --now frees the space")
    elif not (yes or now) and pruned.removed:
        progress.say("nothing was touched: add --yes to move them to the trash for a week, or --now to remove them")
    if num_kept := sum((path.parent.name, path.name) in needed for path in outdated):
        progress.say(_explain(num_kept))
    return 0


def _list(store: Store, progress: Progress) -> None:
    entries = store.entries()
    for entry in entries:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.manifest.made_at))
        m = entry.manifest
        progress.say(f"{m.stage:<9} {m.key}  {_size(entry.num_bytes):>9}  {m.seconds:8.1f} s  {made}  {m.digest[:12]}")
    progress.say(f"{len(entries)} artifacts, {_size(sum(entry.num_bytes for entry in entries))}, in {store.root}")
    if outdated := store.outdated():
        progress.say(_explain(len(outdated)))


def _explain(num_outdated: int) -> str:
    artifacts = "1 artifact" if num_outdated == 1 else f"{num_outdated} artifacts"
    use = "`sft verify` still reads them, no run reuses them"
    return f"{artifacts} of another version of sft: {use}; delete their runs' folders, then prune, to let them go"


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
