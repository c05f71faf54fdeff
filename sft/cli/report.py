"""`sft report` and `sft watch`: the page of a run, as a file, or served while the run is at work."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sft.adapters.os.page_server import listening
from sft.errors import ConfigError, Problem, SftError
from sft.files import path_from_here
from sft.progress import Progress
from sft.report import run_page
from sft.report.run import renew_page
from sft.report.run_view import look

_POLL_SECONDS = 2.0


def execute(folders: Sequence[str], *, opens: bool) -> int:
    """Make or renew a run's ``run.html``: of a finished run, a failed one, or one that is at work.

    Args:
        folders: Of one run.
        opens: Whether a browser shows it.

    Raises:
        ConfigError: Several runs are named.
        DataError: There is no run.
        SftError: The page can't be written.
    """
    if len(folders) > 1:
        command = f"sft compare {' '.join(folders)} --html FILE"
        raise ConfigError([Problem(key="sft report", rule="is of one run", suggestion=f"for several: {command}")])
    folder, progress = Path(folders[0]), Progress()
    view = look(folder)
    try:
        page = renew_page(view)
    except OSError as error:
        raise SftError(f"{folder}: its page can't be written: {error.strerror}", fix=f"sft watch {folder}") from error
    progress.say(f"page: {path_from_here(page)}")
    if view.damage:
        progress.say(f"note: {view.damage}")
    if view.is_at_work:
        progress.say(f"the run is at work: sft watch {folder} shows it live")
    if opens:
        _open(page.absolute().as_uri(), progress)
    return 0


def watch(name: str, *, port: int, opens: bool) -> int:
    """Serve a run's page until Ctrl-C; it renews itself while the run is at work.

    Args:
        name: The run's folder.
        port: Of 127.0.0.1.
        opens: Whether a browser shows it.

    Raises:
        DataError: There is no run.
        StageError: The port is taken.
    """
    folder, progress = Path(name), Progress()
    look(folder)
    with listening(port, lambda: run_page.as_html(look(folder), poll_seconds=_POLL_SECONDS)) as server:
        progress.say(f"{folder} at {server.url}; Ctrl-C ends it")
        sys.stdout.flush()
        if opens:
            _open(server.url, progress)
        with suppress(KeyboardInterrupt):  # Ctrl-C, SIGTERM, a closed terminal: it is how a server ends
            server.serve_forever()
    return 0


def _open(url: str, progress: Progress) -> None:
    if not webbrowser.open(url):
        progress.say(f"no browser to open {url} with")
