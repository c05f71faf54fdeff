"""A real HTTP server that misbehaves on demand, and remembers what it was asked and what it sent."""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Resource:
    """What lies under a path, and how it misbehaves.

    Attributes:
        break_after: Bytes of each answer after which the connection is cut, for `break_times` answers.
        statuses: Answers before the first good one.
        stall_after: Bytes after which the first answer falls silent for `stall_seconds`.
        wrong_parts: How many times a part begins one byte too early.
        content_range: What the first part claims to be, whatever it is.
        also: Further headers of each good answer.
        then: Content from the second request on.
        sent: First and last byte (exclusive) of each answer's content, as far as it was sent.
    """

    content: bytes = b""
    break_after: int | None = None
    break_times: int = 1
    statuses: list[int] = field(default_factory=list)
    stall_after: int | None = None
    stall_seconds: float = 1.0
    then: bytes | None = None
    wrong_parts: int = 0
    ranges: bool = True
    tagged: bool = True
    content_type: str = "application/octet-stream"
    claimed_length: int | None = None
    redirect: str | None = None
    retry_after: str | None = None
    content_range: str | None = None
    also: dict[str, str] = field(default_factory=dict)
    num_requests: int = 0
    sent: list[tuple[int, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(resources: dict[str, Resource], certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Serves resources by path; gives the server's address.

    Args:
        resources: Path -> what lies there.
        certificate: Files of certificate and key, for TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            resource = resources.get(self.path.partition("?")[0])
            if resource is None:
                self.answer(404)
                return
            resource.num_requests += 1
            resource.headers.append({name.lower(): value for name, value in self.headers.items()})
            if resource.num_requests > 1 and resource.then is not None:
                resource.content = resource.then
            if resource.redirect is not None:
                self.answer(302, Location=resource.redirect)
            elif resource.statuses:
                extra = {"Retry-After": resource.retry_after} if resource.retry_after else {}
                self.answer(resource.statuses.pop(0), **extra)
            else:
                self.send_content(resource)

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def send_content(self, resource: Resource) -> None:
            content, begin = resource.content, 0
            tag = f'"{hashlib.sha256(content).hexdigest()[:12]}"'
            wanted = self.headers.get("Range", "")
            same = self.headers.get("If-Range", tag) == tag
            end = len(content)
            if wanted.startswith("bytes=") and resource.ranges and same:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                begin, end = int(first), min(end, int(last) + 1) if last else end
                if begin and resource.wrong_parts:
                    resource.wrong_parts -= 1
                    begin -= 1
                self.send_response(206)
                claimed, resource.content_range = resource.content_range, None
                self.send_header("Content-Range", claimed or f"bytes {begin}-{end - 1}/{len(content)}")
            else:
                self.send_response(200)
            if resource.tagged:
                self.send_header("ETag", tag)
            for name, value in resource.also.items():
                self.send_header(name, value)
            self.send_header("Content-Type", resource.content_type)
            self.send_header("Content-Length", str(resource.claimed_length or end - begin))
            self.end_headers()
            stop = end
            if resource.break_after is not None and resource.break_times and end - begin > resource.break_after:
                resource.break_times -= 1
                stop = begin + resource.break_after
            if resource.stall_after is not None and end - begin > resource.stall_after:
                self.wfile.write(content[begin : begin + resource.stall_after])
                resource.sent.append((begin, begin + resource.stall_after))
                resource.stall_after = None
                time.sleep(resource.stall_seconds)
                self.close_connection = True
                return
            part = (begin, stop)
            resource.sent.append(part)  # before it is: who has read it all may look at once
            self.close_connection = stop < end or resource.claimed_length is not None
            try:
                self.wfile.write(content[begin:stop])
            except ConnectionError:  # what isn't wanted is not read to its end
                resource.sent.remove(part)
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
