"""A real OCI registry, Debian's ``docker-registry``, over a folder; on request with a password, or with a token server
of ours that gives the tokens which it asks for (https://distribution.github.io/distribution/spec/auth/jwt)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

USERNAME, PASSWORD = "ada", "canary-oci-password"
_HTPASSWD = (
    f"{USERNAME}:$2b$04$3faoPZU0dUb3CfJYmdVU2eFt0bLtSPwusC8ckcKLyy2aEPYK06HLS\n"  # bcrypt, of as few rounds as it takes
)


@contextmanager
def registry(folder: Path, *, locked: bool = False, tokens: Tokens | None = None) -> Iterator[str]:
    """Serves a folder; gives host and port. Skips the test where the registry is not installed.

    Args:
        folder: Where it keeps what it gets.
        locked: Whether it asks for `USERNAME` and `PASSWORD`.
        tokens: Who gives the tokens that it asks for.
    """
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if locked:
        (folder / "htpasswd").write_text(_HTPASSWD)
        settings["auth"] = {"htpasswd": {"realm": "sft", "path": str(folder / "htpasswd")}}
    if tokens:
        facts = {
            "realm": tokens.realm,
            "service": "registry",
            "issuer": "sft",
            "rootcertbundle": str(tokens.certificate),
        }
        settings["auth"] = {"token": facts}
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        _wait(port, process, folder / "log.txt")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


class Tokens:
    """A token server.

    Attributes:
        realm: Its address.
        certificate: PEM of whose key signs its tokens.
        asked: The scope of each token that it was asked for, and by which way.
    """

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.asked: list[tuple[str, str]] = []
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=sft"]
        make += ["-out", str(self.certificate), "-keyout", str(self.key)]
        subprocess.run(make, check=True, capture_output=True)

    @contextmanager
    def serving(self) -> Iterator[Tokens]:
        """Gives tokens."""
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            def do_GET(self) -> None:
                known = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
                ours = self.headers.get("Authorization") == f"Basic {known}"
                self.answer("password", parse_qs(urlsplit(self.path).query), ours)

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                ours = form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [PASSWORD]
                self.answer("identity token", form, ours)

            def answer(self, way: str, wanted: dict[str, list[str]], ours: bool) -> None:
                scope = wanted["scope"][0]
                tokens.asked.append((way, scope))
                body = json.dumps({"access_token": tokens.token(scope)} if ours else {}).encode()
                self.send_response(200 if ours else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def token(self, scope: str) -> str:
        """A token for what a scope names: ``repository:org/name:pull,push``."""
        kind, name, actions = scope.split(":")
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "der"], check=True, stdout=subprocess.PIPE
        ).stdout
        now = int(time.time())
        claims = {"iss": "sft", "sub": USERNAME, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now}
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        parts = [_url64(json.dumps(part).encode()) for part in (header, {**claims, "jti": str(now), "access": access})]
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signed = subprocess.run(sign, input=".".join(parts).encode(), check=True, stdout=subprocess.PIPE).stdout
        return ".".join([*parts, _url64(signed)])


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
