"""`sft compare`: runs side by side, as a table, as CSV or JSON, and as a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sft.errors import SftError
from sft.files import path_from_here
from sft.progress import Progress
from sft.report.comparison import page, text
from sft.report.comparison.rows import compare
from sft.sweep.records import points

PAGE = "report.html"


def execute(folders: Sequence[str], *, by: str | None, csv: bool, json: bool, html: str | None) -> int:
    """Compare runs.

    Args:
        folders: Of runs, of sweeps, or run roots; what is none is skipped, if another one is.
        by: The score to sort by.
        csv: Print CSV.
        json: Print JSON.
        html: A page to write.

    Raises:
        DataError: There is no run.
        ConfigError: No run has the score that `by` names.
        SftError: The page can't be written.
    """
    found = compare([Path(folder) for folder in folders], by)
    for name in found.skipped:
        sys.stderr.write(f"skipped {name}: no run, no sweep and no run root\n")
    for name in found.unreadable:
        sys.stderr.write(f"skipped {name}: can't be read by this version of sft\n")
    progress = Progress()
    progress.say(text.as_csv(found) if csv else text.as_json(found) if json else text.as_text(found))
    if html:
        try:
            Path(html).write_text(page.as_html(found), encoding="utf-8")
        except OSError as error:
            raise SftError(f"--html {html}: {error.strerror}", fix="a file in a folder that is there") from error
        if not (csv or json):
            progress.say(f"page: {html}")
    return 0


def print_comparison(sweep: Path, progress: Progress) -> None:
    """Print the table that ends a sweep, and write its page beside its points.

    Args:
        sweep: The sweep's folder.
        progress: Its display.
    """
    if not points(sweep):  # an error has ended it before the first one, and is told
        return
    found = compare([sweep])
    progress.say(text.as_text(found))
    target = sweep / PAGE
    shown = path_from_here(target)
    try:
        target.write_text(page.as_html(found), encoding="utf-8")
    except OSError as error:  # the points are done, or have said why not
        progress.say(f"page  {shown} can't be written: {error.strerror}")
    else:
        progress.say(f"page  {shown}")
