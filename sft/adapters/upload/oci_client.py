"""Owns the part of the OCI distribution protocol (version 1.1) that a push and a pull need, over urllib3.

No library does it: ``oras`` 0.2.43 waits for two minutes if a password is wrong, and ignores ``DOCKER_CONFIG``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from sft.adapters.http_client import HttpClient, RefusedAddress, Unanswered, Untrusted, origin
from sft.adapters.proxy import is_loopback
from sft.adapters.retry import RetryPolicy, TemporaryError, retry
from sft.adapters.upload import RETRY_HINT
from sft.adapters.upload.login import PASSWORD, USERNAME, Login, login
from sft.adapters.upload.oci_answer import Answer, CountingReader
from sft.errors import StageError
from sft.redaction import shortened

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFESTS = (
    *(MANIFEST, INDEX),
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
"""What a model may be pulled as; the second and the last lead to others."""
PLAIN_HTTP = "OCI_PLAIN_HTTP"
"""Environment variable: ``true`` for a registry without TLS that is not on this machine."""

_HUB, _HUB_API = "docker.io", "registry-1.docker.io"
_RETRY = RetryPolicy(max_attempts=4, first_wait_seconds=0.5)
_BLOCK_BYTES = 1 << 18
_TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_BLOB_TIMEOUT = urllib3.Timeout(connect=10.0, read=900.0)
"""A registry answers only after it has hashed and stored a blob."""
_MOST_BYTES = 16 << 20
"""Of an answer: manifests, errors and tokens are smaller."""
_MAX_REDIRECTS = 5
_BUSY = {408, 425, 429}
_PUSHED, _PULLED = "registry.upload", "model.name_or_path"
"""Settings that name a repository."""
_CHALLENGE = re.compile(r'(?<!\w)(\w+)="([^"]*)"')
T = TypeVar("T")


class Repository:
    """A repository in a registry.

    Args:
        host: Host of the registry, with its port.
        name: Name of the repository.
        is_pull: Whether it is only read.

    Raises:
        StageError: From every method: the registry refuses or can't be reached.
    """

    def __init__(self, host: str, name: str, *, is_pull: bool = False) -> None:
        self.host, self.name = host, name
        self._setting, self._may = (_PULLED, "pull") if is_pull else (_PUSHED, "push")
        self._check = f"check {self._setting}: the host, and a repository that this registry has"
        plain = _is_local(host) or os.environ.get(PLAIN_HTTP, "").lower() in {"1", "true", "yes"}
        self._root = f"{'http' if plain else 'https'}://{_HUB_API if host == _HUB else host}"
        self._client = HttpClient(_TIMEOUT, block_bytes=_BLOCK_BYTES)
        self._login: Login = login(host, is_pull=is_pull)
        self._authorization: str | None = None

    def has(self, digest: str, size: int) -> bool:
        """Return whether the registry has a blob."""
        return self._retry(lambda: self._has(digest, size))

    def check_push(self) -> None:
        """Ask whether blobs may be sent: an upload is begun and given up."""
        self._retry(self._begin_and_give_up)

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
        return self._retry(lambda: self._ask("GET", self._at(f"manifests/{digest}"), {200}, headers)).content

    def find(self, reference: str) -> tuple[str, bytes]:
        """Return the digest and the text of the manifest or index that a tag or a digest names.

        Raises:
            StageError: Its text is not that of the digest.
        """
        headers = {"Accept": ", ".join(MANIFESTS)}
        content = self._retry(lambda: self._ask("GET", self._at(f"manifests/{reference}"), {200}, headers)).content
        digest = digest_of(content)
        if reference.startswith("sha256:") and digest != reference:
            raise StageError(f"the registry {self.host} sends another manifest than {reference}", fix=self._check)
        return digest, content

    def pull(self, digest: str, size: int, file: Path, on_read: Callable[[int], None]) -> None:
        """Write a blob to a file, which has this digest then.

        Args:
            digest: ``sha256:…``.
            size: Its bytes, as the manifest says.
            file: Where it goes.
            on_read: Called with the number of bytes of each piece that arrives.
        """
        self._retry(lambda: self._pull(digest, size, file, on_read))

    def _pull(self, digest: str, size: int, file: Path, on_read: Callable[[int], None]) -> None:
        url, hashed, count = self._at(f"blobs/{digest}"), hashlib.sha256(), 0
        headers = {"Authorization": self._authorization} if self._authorization else {}
        with self._translating_errors():
            response = self._client.request("GET", url, headers, timeout=_TIMEOUT, max_redirects=_MAX_REDIRECTS)
            with response, file.open("wb") as target:
                if response.status == 401:
                    self._authenticate(Answer(response.status, response.headers, b""))
                if response.status != 200:
                    raise TemporaryError(f"answers {response.status} for {digest}")
                while chunk := response.read1(_BLOCK_BYTES):
                    count += len(chunk)
                    if count > size:
                        break
                    hashed.update(chunk)
                    target.write(chunk)
                    on_read(len(chunk))
        if count != size or f"sha256:{hashed.hexdigest()}" != digest:
            on_read(-min(count, size))
            raise TemporaryError(f"sends something else than {digest}")

    def _has(self, digest: str, size: int) -> bool:
        answer = self._ask("HEAD", self._at(f"blobs/{digest}"), {200, 404})
        return answer.status == 200 and answer.headers.get("Content-Length", str(size)) == str(size)

    def _push(self, file: Path, digest: str, on_read: Callable[[int], None]) -> None:
        answer = self._ask("POST", self._at("blobs/uploads/"), {202})
        location = self._upload_place(answer.headers.get("Location", ""))
        location += ("&" if urlsplit(location).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as stream:
            self._ask("PUT", location, {201}, headers, CountingReader(stream, on_read))

    def _begin_and_give_up(self) -> None:
        answer = self._ask("POST", self._at("blobs/uploads/"), {202})
        place = self._upload_place(answer.headers.get("Location", ""))
        with suppress(TemporaryError):  # one that can't be given up ends by itself, in an hour or so
            self._send("DELETE", place, {}, None)

    def _at(self, path: str) -> str:
        return f"{self._root}/v2/{self.name}/{path}"

    def _retry(self, request: Callable[[], T]) -> T:
        try:
            return retry(request, _RETRY)
        except TemporaryError as error:
            message = f"the registry {self.host} {error}"
            raise StageError(message, fix=f"check {self._setting} and the network; {RETRY_HINT}") from error

    def _upload_place(self, location: str) -> str:
        """Return where the registry wants a blob, which may be another host.

        Raises:
            StageError: It says no address, or one without TLS although it has TLS itself.
        """
        try:
            place = urljoin(self._root, location)
            is_safe = origin(place)[0] == "https" or self._root.startswith("http:")
        except ValueError as error:
            raise StageError(f"the registry {self.host} names no address for an upload", fix=self._check) from error
        if not location or not is_safe:
            what = "wants an upload without TLS" if location else "does not say where an upload goes"
            raise StageError(f"the registry {self.host} {what}", fix=self._check)
        return place

    def _ask(
        self, method: str, url: str, expected: set[int], headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        """Return the answer to a request; repeat it with credentials if the registry asks for them."""
        answer = self._send(method, url, headers or {}, body)
        if answer.status == 401 and self._authenticate(answer):
            if isinstance(body, CountingReader):  # it has been read: the next attempt opens it again
                raise TemporaryError("asks for a login")
            answer = self._send(method, url, headers or {}, body)
        if answer.status in expected:
            return answer
        what = f"answers {answer.status} ({answer.why})"
        if answer.status in {401, 403}:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}, for a user that may {self._may}"
            raise StageError(f"the registry {self.host} {what}: it refuses the login", fix=f"{fix}; {RETRY_HINT}")
        if answer.status in _BUSY or answer.status >= 500:
            raise TemporaryError(what, answer.asked_seconds)
        raise StageError(f"the registry {self.host} {what}", fix=self._check)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> Answer:
        is_registry = origin(url) == origin(self._root)  # its storage may be elsewhere
        credentials = {"Authorization": self._authorization} if is_registry and self._authorization else {}
        timeout = _BLOB_TIMEOUT if isinstance(body, CountingReader) else _TIMEOUT
        redirects = _MAX_REDIRECTS if method in {"GET", "HEAD"} else 0
        return self._request(method, url, {**headers, **credentials}, body, timeout, redirects)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        timeout: urllib3.Timeout = _TIMEOUT,
        max_redirects: int = 0,
    ) -> Answer:
        with self._translating_errors():
            response = self._client.request(
                method, url, headers, body=body, timeout=timeout, max_redirects=max_redirects
            )
            with response:
                return Answer(response.status, response.headers, self._read(response))

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except Untrusted as error:
            fix = f"set SSL_CERT_FILE to an authority that you trust, or {PLAIN_HTTP}=true if it has no TLS"
            raise StageError(f"the registry {self.host}: TLS fails ({error})", fix=fix) from error
        except RefusedAddress as error:
            raise StageError(f"the registry {self.host} {error}", fix=self._check) from error
        except Unanswered as error:
            raise TemporaryError(f"can't be reached ({error})") from error
        except (HTTPError, OSError) as error:
            raise TemporaryError(f"broke off ({type(error).__name__})") from error

    def _read(self, response: Any) -> bytes:
        content = b""
        while chunk := response.read1(_BLOCK_BYTES):
            content += chunk
            if len(content) > _MOST_BYTES:
                raise StageError(
                    f"the registry {self.host} answers with more than {_MOST_BYTES:,} bytes", fix=self._check
                )
        return content

    def _authenticate(self, answer: Answer) -> bool:
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
            raise StageError(
                f"the registry {self.host} asks for a login at {shortened(realm, 100)} without TLS", fix=self._check
            )
        if self._login.identity_token:
            form = {**request, "grant_type": "refresh_token", "client_id": "sft"}
            body = urlencode({**form, "refresh_token": self._login.identity_token}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._request("POST", realm, headers, body)  # not redirected: the token is in its body
        else:
            credentials = {"Authorization": self._login.header} if self._login.header else {}
            url = realm + ("&" if "?" in realm else "?") + urlencode(request)
            answer = self._request("GET", url, credentials, max_redirects=_MAX_REDIRECTS)
        if answer.status in _BUSY or answer.status >= 500:
            raise TemporaryError(f"has a token server that answers {answer.status}", answer.asked_seconds)
        if answer.status != 200:
            fix = f"docker login {self.host}, or set {USERNAME} and {PASSWORD}"
            message = f"the registry {self.host} refuses the login: its token server answers {answer.status}"
            raise StageError(message, fix=f"{fix}; {RETRY_HINT}")
        try:
            facts = json.loads(answer.content)
            return str(facts.get("token") or facts["access_token"])
        except (ValueError, LookupError, AttributeError, RecursionError) as error:
            raise StageError(
                f"the registry {self.host} has a token server that answers no token", fix=self._check
            ) from error


def digest_of(content: bytes) -> str:
    """Return the name of a blob: ``sha256:…``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _is_local(host: str) -> bool:
    """Return whether a registry is on this machine, where Docker needs no TLS either."""
    return is_loopback(host.rpartition(":")[0] or host)
