"""`sft store`: what the artifact store holds, and removing what no run's record refers to."""

from __future__ import annotations

import time
from pathlib import Path

from sft import record
from sft.progress import Progress
from sft.store import Store


def execute(action: str, run_root: str, *, dry_run: bool) -> int:
    """List or prune the store under a run root."""
    root, progress = Path(run_root), Progress()
    if not (root / "store").is_dir():
        progress.say(f"no store in {root.absolute()}")
        return 0
    store = Store(root / "store")
    if action == "list":
        _list(store, progress)
        return 0
    steps = [step for folder in root.iterdir() if (rec := record.load(folder)) for step in rec.steps]
    used = {step.path for step in steps if step.path}
    # What an interrupted training has left is what its command goes on from.
    used |= {str(store.staging_path(step.name.partition(":")[0], step.key)) for step in steps if step.key}
    outdated = store.outdated()
    removed = store.prune(used, dry_run=dry_run)
    for path, num_bytes in removed:
        progress.say(f"{'would remove' if dry_run else 'removed'} {path} ({_size(num_bytes)})")
    total = _size(sum(num_bytes for _, num_bytes in removed))
    progress.say(f"{len(removed)} folders, {total}; kept what a run.json under {root} refers to")
    if num_kept := sum(str(path) in used for path in outdated):
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
