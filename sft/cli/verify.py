"""`sft verify`: whether a run or a model is still what its record says."""

from __future__ import annotations

from pathlib import Path

from sft.errors import VerificationError
from sft.progress import Progress
from sft.runner.verify import verify


def execute(path: str, key: str | None) -> int:
    """Checks a run's folder or a model's folder.

    Raises:
        VerificationError: Something is not as recorded; every difference is named.
    """
    progress = Progress()
    found = verify(Path(path), public_key=Path(key) if key else None)
    for note in found.notes:
        progress.say(f"- {note}")
    if found.problems:
        raise VerificationError(found.what, found.problems)
    progress.say(f"{found.what}: {found.num_files} files, everything is as recorded")
    if key:
        progress.say(f"signed with the private key of {key}")
    if found.digest:
        progress.say(f"package.digest {found.digest}: a registry that holds another one holds another model")
    return 0
