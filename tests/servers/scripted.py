"""A real HTTP server that answers every request as a test says, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What came, with the names of headers in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes


@dataclass
class Server:
    """Where it is, and what it was asked."""

    address: str
    requests: list[Request] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.address.partition("://")[2]


@contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[Server]:
    """Answer until the block ends.

    Args:
        answer: Returns what is answered to a request.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def respond(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, content)
            server.requests.append(request)
            said = answer(request)
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(said.content)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.content)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = respond

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
