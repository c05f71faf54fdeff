"""A server of chat completions that judges as a test says, misbehaves on demand, and keeps what it was asked."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-1"
Verdict = Callable[[str, str], str]
"""Says of answer A and answer B what the judge says."""


@dataclass
class JudgeServer:
    """What the server does, and what it saw.

    Attributes:
        verdict: Of each pair.
        statuses: Answers before the first good one.
        retry_after: Header of those.
        bodies: Bodies, with status 200, before the first good one.
        die_after: Good answers after which every connection is cut; None = never.
        stall_seconds: How long each byte of an answer takes to come.
        requests: Bodies that came, with the headers.
        address: For `eval.judge.address`.
        model: What the server says that answers.
    """

    verdict: Verdict
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    bodies: list[bytes] = field(default_factory=list)
    die_after: int | None = None
    stall_seconds: float = 0.0
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    num_answers: int = 0
    address: str = ""
    model: str = MODEL


def always(text: str) -> Verdict:
    """Say the same of every pair."""
    return lambda _a, _b: text


def prefers(word: str) -> Verdict:
    """Prefer the answer that holds a word."""

    def verdict(a: str, b: str) -> str:
        mark = "TIE" if (word in a) == (word in b) else "A" if word in a else "B"
        return f"One of them says {word}.\n[[{mark}]]"

    return verdict


def part(text: str, name: str) -> str:
    """Return what stands between the marks of a part of a request."""
    [found] = re.findall(rf"^<{name} ([0-9a-f]+)>\n(.*?)\n</{name} \1>$", text, re.DOTALL | re.MULTILINE)
    content: str = found[1]
    return content


@contextmanager
def serving(server: JudgeServer) -> Iterator[JudgeServer]:
    """Answer until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                is_dead = server.die_after is not None and server.num_answers >= server.die_after
                status = server.statuses.pop(0) if server.statuses and not is_dead else 200
                odd = server.bodies.pop(0) if server.bodies and status == 200 and not is_dead else None
                server.num_answers += not is_dead and status == 200 and odd is None
            if is_dead:
                self.close_connection = True
                return None
            if status != 200:
                return self.answer(status, json.dumps({"error": {"message": f"status {status}"}}).encode())
            return self.answer(200, odd if odd is not None else self.judged(body))

        def judged(self, body: dict[str, Any]) -> bytes:
            text = body["messages"][-1]["content"]
            said = server.verdict(part(text, "answer A"), part(text, "answer B"))
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            return json.dumps({"model": server.model, "choices": [choice], "usage": {"total_tokens": 9}}).encode()

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            if server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            self.end_headers()
            if not server.stall_seconds:
                self.wfile.write(content)
                return
            try:
                for place in range(len(content)):
                    self.wfile.write(content[place : place + 1])
                    time.sleep(server.stall_seconds)
            except OSError:
                self.close_connection = True  # whoever asked has gone

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
