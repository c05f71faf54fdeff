"""Serves one page to browsers of this machine, and nothing else."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from sft.errors import SftError, StageError
from sft.redaction import redact

_log = logging.getLogger(__name__)
HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}
"""What a browser of this machine calls it: another name in a request is of a page elsewhere that wants to read ours."""
_FRESH_SECONDS = 1.0
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class PageServer(ThreadingHTTPServer):
    """A server of one page, at ``/``, on the loopback interface."""

    daemon_threads = True

    def __init__(self, port: int, page: Callable[[], str]) -> None:
        """Listen.

        Args:
            port: Port of 127.0.0.1; 0 = a free one.
            page: Makes the page, at most once a second.
        """
        super().__init__((HOST, port), _Handler)
        self._page, self._lock = page, Lock()
        self._made_at, self._content = 0.0, b""

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's interface
        """Say nothing of a browser that has gone, and log the rest: the terminal is the person's."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            _log.warning("the page could not be sent", exc_info=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"

    def content(self) -> bytes:
        """Return the page as of now.

        Raises:
            SftError: It can't be made.
        """
        with self._lock:
            if not self._content or time.monotonic() - self._made_at > _FRESH_SECONDS:
                self._content = self._page().encode("utf-8", errors="replace")
                self._made_at = time.monotonic()
            return self._content


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 10.0
    server_version, sys_version = "sft", ""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in _NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._send_page()

    do_HEAD = do_GET

    def _send_page(self) -> None:
        try:
            content = self.server.content()
        except (SftError, OSError) as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=redact(str(error)))
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        is_known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", "0" if is_known else str(len(content)))
        self.end_headers()
        if self.command == "GET" and not is_known:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of a request: the terminal is the person's."""


@contextmanager
def listening(port: int, page: Callable[[], str]) -> Iterator[PageServer]:
    """Listen until the block ends; the caller serves.

    Args:
        port: Port of 127.0.0.1; 0 = a free one.
        page: Makes the page.

    Raises:
        StageError: The port is taken, or is none.
    """
    try:
        server = PageServer(port, page)
    except (OSError, OverflowError) as error:
        raise StageError(f"port {port}: {error.args[-1]}", fix="--port N, or --port 0 for any that is free") from error
    with server:
        yield server
