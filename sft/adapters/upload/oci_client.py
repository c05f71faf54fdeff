"""Owns what a push needs of the OCI distribution protocol (its specification, version 1.1), over urllib3.

No library: ``oras`` 0.2.43 waits for two minutes where a password is wrong, and knows no ``DOCKER_CONFIG``.
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
"""A registry answers when it has hashed a blob and put it where it keeps it."""
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
T = TypeVar("T")


class _Counted:
    """A file that tells how much of it is read."""

    def __init__(self, stream: BinaryIO, read: Callable[[int], None]) -> None:
        self._stream, self._read = stream, read

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._read(len(content))
        return content


class Repository:
    """A repository in a registry.

    Args:
        host: Of the registry, with its port.
        name: Of the repository.

    Raises:
        StageError: By every method: the registry refuses or can't be reached.
    """

    def __init__(self, host: str, name: str) -> None:
        self.host, self.name = host, name
        plain = _is_here(host) or os.environ.get(PLAIN_HTTP, "").lower() in {"1", "true", "yes"}
        self._root = f"{'http' if plain else 'https'}://{_HUB_API if host == _HUB else host}"
        once = urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)  # `_retry` repeats it
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, blocksize=_BLOCK_BYTES, retries=once)
        self._login: Login = login(host)
        self._authorization: str | None = None

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there."""
        return self._retry(lambda: self._has(digest, size))

    def push(self, file: Path, digest: str, read: Callable[[int], None]) -> None:
        """Sends a blob; the registry takes it only with the bytes that its digest stands for.

        Args:
            file: What is sent.
            digest: ``sha256:…``.
            read: Told how many bytes are on their way.
        """
        self._retry(lambda: self._push(file, digest, read))

    def tag(self, manifest: bytes, tag: str) -> None:
        """Makes a manifest what a tag names."""
        headers = {"Content-Type": MANIFEST}
        self._retry(lambda: self._ask("PUT", self._at(f"manifests/{tag}"), {200, 201}, headers, manifest))

    def manifest(self, digest: str) -> bytes:
        """The manifest with a digest."""
        headers = {"Accept": MANIFEST}
        answer = self._retry(lambda: self._ask("GET", self._at(f"manifests/{digest}"), {200}, headers))
        content: bytes = answer.data
        return content

    def _has(self, digest: str, size: int) -> bool:
        answer = self._ask("HEAD", self._at(f"blobs/{digest}"), {200, 404})
        return answer.status == 200 and int(answer.headers.get("Content-Length", size)) == size

    def _push(self, file: Path, digest: str, read: Callable[[int], None]) -> None:
        begun = self._ask("POST", self._at("blobs/uploads/"), {202})
        place = urljoin(self._root, begun.headers["Location"])
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as stream:
            self._ask("PUT", place, {201}, headers, _Counted(stream, read))

    def _at(self, path: str) -> str:
        return f"{self._root}/v2/{self.name}/{path}"

    def _retry(self, request: Callable[[], T]) -> T:
        try:
            return retry(request, _RETRY)
        except TemporaryError as error:
            message = f"the registry {self.host} {error}"
            raise StageError(message, fix=f"check registry.upload and the network; {RETRY_HINT}") from error

    def _ask(
        self, method: str, url: str, good: set[int], headers: Mapping[str, str] | None = None, body: Any = None
    ) -> urllib3.BaseHTTPResponse:
        """One request; a second one where the registry wants to know who asks."""
        answer = self._send(method, url, headers or {}, body)
        if answer.status == 401 and self._introduce(answer):
            if isinstance(body, _Counted):  # it has been read: from the beginning, with what is known now
                raise TemporaryError("asks for a login")
            answer = self._send(method, url, headers or {}, body)
        if answer.status in good:
            return answer
        what = f"answers {answer.status} ({_said(answer)})"
        if answer.status in {401, 403}:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}, for a user that may push"
            raise StageError(f"the registry {self.host} {what}: it doesn't take the login", fix=f"{fix}; {RETRY_HINT}")
        if answer.status == 429 or answer.status >= 500:
            raise TemporaryError(what)
        raise StageError(f"the registry {self.host} {what}", fix=RETRY_HINT)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> urllib3.BaseHTTPResponse:
        ours = urlsplit(url).netloc == urlsplit(self._root).netloc  # a storage behind it is told nothing
        known = {"Authorization": self._authorization} if ours and self._authorization else {}
        try:
            return self._pool.request(
                method,
                url,
                headers={**headers, **known},
                body=body,
                redirect=body is None,
                timeout=_BLOB_TIMEOUT if isinstance(body, _Counted) else _TIMEOUT,
            )
        except MaxRetryError as error:
            if isinstance(error.reason, SSLError):
                fix = f"set SSL_CERT_FILE to the authority that you trust; {PLAIN_HTTP}=true where there is no TLS"
                message = f"the registry {self.host}: TLS fails ({error.reason})"
                raise StageError(message, fix=fix) from error
            raise TemporaryError(f"can't be reached ({type(error.reason).__name__})") from error
        except (HTTPError, OSError) as error:
            raise TemporaryError(f"broke off ({type(error).__name__})") from error

    def _introduce(self, answer: urllib3.BaseHTTPResponse) -> bool:
        """Finds the header that a registry asks for; False where there is none that it has not refused."""
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        before, challenge = self._authorization, dict(_CHALLENGE.findall(rest))
        if kind.lower() == "basic":
            self._authorization = self._login.header
        elif kind.lower() == "bearer" and "realm" in challenge:
            self._authorization = f"Bearer {self._token(challenge)}"
        return self._authorization is not None and self._authorization != before

    def _token(self, challenge: Mapping[str, str]) -> str:
        """What the registry's token server gives us (https://distribution.github.io/distribution/spec/auth/token)."""
        realm = challenge["realm"]
        wanted = {name: challenge[name] for name in ("service", "scope") if name in challenge}
        if self._root.startswith("https:") and not realm.startswith("https:"):
            raise StageError(f"the registry {self.host} sends us without TLS to {urlsplit(realm).netloc} for a token")
        try:
            if self._login.identity_token:
                form = {**wanted, "grant_type": "refresh_token", "client_id": "sft"}
                body = urlencode({**form, "refresh_token": self._login.identity_token})
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                answer = self._pool.request("POST", realm, headers=headers, body=body)
            else:
                known = {"Authorization": self._login.header} if self._login.header else {}
                answer = self._pool.request("GET", f"{realm}?{urlencode(wanted)}", headers=known)
        except HTTPError as error:
            raise TemporaryError(f"has a token server that can't be reached ({type(error).__name__})") from error
        if answer.status >= 500:
            raise TemporaryError(f"has a token server that answers {answer.status}")
        if answer.status != 200:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}"
            message = f"the registry {self.host} doesn't take the login: its token server answers {answer.status}"
            raise StageError(message, fix=f"{fix}; {RETRY_HINT}")
        facts = answer.json()
        return str(facts.get("token") or facts["access_token"])


def digest_of(content: bytes) -> str:
    """A blob's name: ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _is_here(host: str) -> bool:
    """Whether a registry is on this machine, where Docker too needs no TLS."""
    name = host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _said(answer: urllib3.BaseHTTPResponse) -> str:
    """The first of an answer's errors, as the specification spells them, else its reason."""
    try:
        first = json.loads(answer.data)["errors"][0]
        return f"{first['code']}: {first['message']}" if first.get("message") else str(first["code"])
    except (ValueError, LookupError, TypeError):
        return answer.reason or "without a word"
