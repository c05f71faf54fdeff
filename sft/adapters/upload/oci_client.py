"""Owns the part of the OCI distribution protocol (version 1.1) that a push needs, over urllib3.

No library does it: ``oras`` 0.2.43 waits for two minutes if a password is wrong, and ignores ``DOCKER_CONFIG``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from sft.adapters.retry import RetryPolicy, TemporaryError, retry
from sft.adapters.upload import RETRY_HINT
from sft.adapters.upload.login import PASSWORD, USERNAME, Login, login
from sft.errors import StageError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PLAIN_HTTP = "OCI_PLAIN_HTTP"
"""Environment variable: ``true`` for a registry without TLS that is not on this machine."""

_HUB, _HUB_API = "docker.io", "registry-1.docker.io"
_RETRY = RetryPolicy(max_attempts=4, first_wait_seconds=0.5)
_BLOCK_BYTES = 1 << 18
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_BLOB_TIMEOUT = urllib3.Timeout(connect=10.0, read=900.0)
"""A registry answers only after it has hashed and stored a blob."""
_CHALLENGE = re.compile(r'(?<!\w)(\w+)="([^"]*)"')
T = TypeVar("T")


class _CountingReader:
    """A file that reports how much of it is read."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]) -> None:
        self._stream, self._on_read = stream, on_read

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._on_read(len(content))
        return content


class Repository:
    """A repository in a registry.

    Args:
        host: Host of the registry, with its port.
        name: Name of the repository.

    Raises:
        StageError: From every method: the registry refuses or can't be reached.
    """

    def __init__(self, host: str, name: str) -> None:
        self.host, self.name = host, name
        plain = _is_local(host) or os.environ.get(PLAIN_HTTP, "").lower() in {"1", "true", "yes"}
        self._root = f"{'http' if plain else 'https'}://{_HUB_API if host == _HUB else host}"
        once = urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)  # `_retry` repeats it
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, blocksize=_BLOCK_BYTES, retries=once)
        self._login: Login = login(host)
        self._authorization: str | None = None

    def has(self, digest: str, size: int) -> bool:
        """Return whether the registry has a blob."""
        return self._retry(lambda: self._has(digest, size))

    def push(self, file: Path, digest: str, on_read: Callable[[int], None]) -> None:
        """Send a blob; the registry accepts it only if it has this digest.

        Args:
            file: The blob.
            digest: ``sha256:…``.
            on_read: Called with the number of bytes of each piece that is sent.
        """
        self._retry(lambda: self._push(file, digest, on_read))

    def tag(self, manifest: bytes, tag: str) -> None:
        """Store a manifest under a tag."""
        headers = {"Content-Type": MANIFEST}
        self._retry(lambda: self._ask("PUT", self._at(f"manifests/{tag}"), {200, 201}, headers, manifest))

    def manifest(self, digest: str) -> bytes:
        """Return the manifest that has a digest."""
        headers = {"Accept": MANIFEST}
        answer = self._retry(lambda: self._ask("GET", self._at(f"manifests/{digest}"), {200}, headers))
        content: bytes = answer.data
        return content

    def _has(self, digest: str, size: int) -> bool:
        answer = self._ask("HEAD", self._at(f"blobs/{digest}"), {200, 404})
        return answer.status == 200 and int(answer.headers.get("Content-Length", size)) == size

    def _push(self, file: Path, digest: str, on_read: Callable[[int], None]) -> None:
        answer = self._ask("POST", self._at("blobs/uploads/"), {202})
        location = urljoin(self._root, answer.headers["Location"])
        location += ("&" if urlsplit(location).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as stream:
            self._ask("PUT", location, {201}, headers, _CountingReader(stream, on_read))

    def _at(self, path: str) -> str:
        return f"{self._root}/v2/{self.name}/{path}"

    def _retry(self, request: Callable[[], T]) -> T:
        try:
            return retry(request, _RETRY)
        except TemporaryError as error:
            message = f"the registry {self.host} {error}"
            raise StageError(message, fix=f"check registry.upload and the network; {RETRY_HINT}") from error

    def _ask(
        self, method: str, url: str, expected: set[int], headers: Mapping[str, str] | None = None, body: Any = None
    ) -> urllib3.BaseHTTPResponse:
        """Return the answer to a request; repeat it with credentials if the registry asks for them."""
        answer = self._send(method, url, headers or {}, body)
        if answer.status == 401 and self._authenticate(answer):
            if isinstance(body, _CountingReader):  # it has been read: the next attempt opens it again
                raise TemporaryError("asks for a login")
            answer = self._send(method, url, headers or {}, body)
        if answer.status in expected:
            return answer
        what = f"answers {answer.status} ({_reason(answer)})"
        if answer.status in {401, 403}:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}, for a user that may push"
            raise StageError(f"the registry {self.host} {what}: it refuses the login", fix=f"{fix}; {RETRY_HINT}")
        if answer.status == 429 or answer.status >= 500:
            raise TemporaryError(what)
        raise StageError(f"the registry {self.host} {what}", fix=RETRY_HINT)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> urllib3.BaseHTTPResponse:
        is_registry = urlsplit(url).netloc == urlsplit(self._root).netloc  # its storage may be elsewhere
        credentials = {"Authorization": self._authorization} if is_registry and self._authorization else {}
        try:
            return self._pool.request(
                method,
                url,
                headers={**headers, **credentials},
                body=body,
                redirect=body is None,
                timeout=_BLOB_TIMEOUT if isinstance(body, _CountingReader) else _TIMEOUT,
            )
        except MaxRetryError as error:
            if isinstance(error.reason, SSLError):
                fix = f"set SSL_CERT_FILE to an authority that you trust, or {PLAIN_HTTP}=true if it has no TLS"
                message = f"the registry {self.host}: TLS fails ({error.reason})"
                raise StageError(message, fix=fix) from error
            raise TemporaryError(f"can't be reached ({type(error.reason).__name__})") from error
        except (HTTPError, OSError) as error:
            raise TemporaryError(f"broke off ({type(error).__name__})") from error

    def _authenticate(self, answer: urllib3.BaseHTTPResponse) -> bool:
        """Set the credentials that a registry asks for; return False if there are none that it has not refused."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        before, challenge = self._authorization, dict(_CHALLENGE.findall(rest))
        if kind.lower() == "basic":
            self._authorization = self._login.header
        elif kind.lower() == "bearer" and "realm" in challenge:
            self._authorization = f"Bearer {self._token(challenge)}"
        return self._authorization is not None and self._authorization != before

    def _token(self, challenge: Mapping[str, str]) -> str:
        """Return a token from the registry's token server (https://distribution.github.io/distribution/spec/auth/token)."""
        realm = challenge["realm"]
        request = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        if self._root.startswith("https:") and not realm.startswith("https:"):
            raise StageError(f"the registry {self.host} asks for a login at {urlsplit(realm).netloc} without TLS")
        try:
            if self._login.identity_token:
                form = {**request, "grant_type": "refresh_token", "client_id": "sft"}
                body = urlencode({**form, "refresh_token": self._login.identity_token})
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                answer = self._pool.request("POST", realm, headers=headers, body=body)
            else:
                credentials = {"Authorization": self._login.header} if self._login.header else {}
                answer = self._pool.request("GET", f"{realm}?{urlencode(request)}", headers=credentials)
        except HTTPError as error:
            raise TemporaryError(f"has a token server that can't be reached ({type(error).__name__})") from error
        if answer.status >= 500:
            raise TemporaryError(f"has a token server that answers {answer.status}")
        if answer.status != 200:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}"
            message = f"the registry {self.host} refuses the login: its token server answers {answer.status}"
            raise StageError(message, fix=f"{fix}; {RETRY_HINT}")
        facts = answer.json()
        return str(facts.get("token") or facts["access_token"])


def digest_of(content: bytes) -> str:
    """Return the name of a blob: ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _is_local(host: str) -> bool:
    """Return whether a registry is on this machine, where Docker needs no TLS either."""
    name = host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _reason(answer: urllib3.BaseHTTPResponse) -> str:
    """Return the first of an answer's errors, as the specification spells them, else its reason."""
    try:
        first = json.loads(answer.data)["errors"][0]
        return f"{first['code']}: {first['message']}" if first.get("message") else str(first["code"])
    except (ValueError, LookupError, TypeError):
        return answer.reason or "no reason given"
