"""The server of one page: what it gives to whom, and that it gives nothing else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected

import pytest

from sft.adapters.os import page_server
from sft.adapters.os.page_server import PageServer, listening
from sft.errors import DataError, StageError


@contextmanager
def serving(page: Callable[[], str]) -> Iterator[PageServer]:
    with listening(0, page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: PageServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(*server.server_address[:2], timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def test_the_page_is_given_once_and_again_only_when_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "_FRESH_SECONDS", 0.0)
    pages = ["<p>one"]
    with serving(lambda: pages[0]) as server:
        answer, content = ask(server)
        tag = answer.headers["ETag"]
        assert (answer.status, content) == (200, b"<p>one")
        assert ask(server, **{"If-None-Match": tag})[0].status == 304
        pages[0] = "<p>two"
        assert ask(server, **{"If-None-Match": tag})[1] == b"<p>two"
        assert ask(server, method="HEAD")[1] == b""


@pytest.mark.parametrize("path", ["/run.json", "/../run.json", "//etc/passwd", "/%2e%2e/run.json", "/index.html"])
def test_no_other_path_is_served(path: str) -> None:
    with serving(lambda: "page") as server:
        answer, content = ask(server, path)
        assert answer.status == 404
        assert b"page" not in content.partition(b"<h1>")[0]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "["])
def test_a_page_elsewhere_that_calls_it_by_its_own_name_gets_nothing(host: str) -> None:
    with serving(lambda: "secret page") as server:
        answer, content = ask(server, Host=host)
        assert answer.status == 421
        assert b"secret page" not in content
        assert ask(server, Host="localhost:1")[0].status == 200


def test_it_changes_nothing() -> None:
    with serving(lambda: "page") as server:
        assert ask(server, method="POST")[0].status == 501


def test_a_page_that_cannot_be_made_is_told_and_the_next_one_is_given() -> None:
    answers: list[Exception | str] = [DataError("no run.json there"), FileNotFoundError("no run.json there"), "page"]

    def page() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with serving(page) as server:
        for _ in range(2):
            answer, content = ask(server)
            assert (answer.status, b"no run.json there" in content) == (503, True)
        assert ask(server)[1] == b"page"


def test_a_browser_that_has_gone_and_a_fault_of_ours_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> str:
        raise RuntimeError("a fault")

    with serving(lambda: "x" * (64 << 20)) as server, socket.create_connection(server.server_address[:2]) as browser:
        browser.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        browser.recv(100)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves at once
        browser.close()
        assert ask(server)[0].status == 200
    with serving(fails) as server, pytest.raises(RemoteDisconnected):
        ask(server)
    assert "Traceback" not in capfd.readouterr().err


def test_it_listens_on_this_machine_alone_and_a_taken_port_is_named() -> None:
    with listening(0, lambda: "") as server:
        assert server.server_address[0] == "127.0.0.1"
        port = server.server_address[1]
        with pytest.raises(StageError, match=f"port {port}: .*in use"), listening(port, lambda: ""):
            pass
    with pytest.raises(StageError, match="port 99999: "), listening(99999, lambda: ""):
        pass
