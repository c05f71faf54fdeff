"""`sft debug`: one archive of a run for an issue."""

from __future__ import annotations

from pathlib import Path

from sft.progress import Progress
from sft.runner.debug_archive import debug_archive


def execute(run: str, output: str | None) -> int:
    """Write the archive, and say what is in it.

    Args:
        run: The run's folder.
        output: The archive; None = named after the run, in the working folder.

    Raises:
        DataError: There is no run.
        SftError: The archive is there already, or can't be written.
    """
    folder, progress = Path(run), Progress()
    made = debug_archive(folder, Path(output or f"{folder.absolute().name}-debug.tar.gz"))
    for note in made.notes:
        progress.say(f"- {note}")
    progress.say(f"wrote {made.file}: {', '.join(made.names)}")
    progress.say("free of known secrets, rows and answers; look at it before you send it")
    return 0
