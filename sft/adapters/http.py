"""Owns downloads over HTTP(S): resumed, repeated, checked. Beside it, only OCI registries use urllib3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from sft.adapters.partial_file import PartialFile
from sft.adapters.retry import RetryPolicy, TemporaryError, retry
from sft.errors import DataError
from sft.logs import redact

T = TypeVar("T")

_CHUNK_BYTES = 1 << 18
_MAX_REDIRECTS = 5
_PERMANENT = {
    401: "asks for a login",
    403: "refuses access",
    404: "has no such file",
    410: "no longer has that file",
}


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        connect_seconds: Until it takes a connection.
        stall_seconds: Longest silence within a download.
        retry: Attempts; one that brings new bytes starts their count anew.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=6, first_wait_seconds=1.0))


Progress = Callable[[int, int | None], None]


class _OtherFile(TemporaryError):
    """What arrives is not the rest of what has arrived."""


def version(url: str, patience: Patience = Patience()) -> str:
    """Return what changes if the content may have changed: ETag or date, and length.

    Raises:
        DataError: The server can't be reached, or has no such file.
    """

    def ask() -> str:
        response = _request(url, {"Range": "bytes=0-0"}, patience)
        try:
            _check_status(response, url)
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            length = total or response.headers.get("Content-Length", "")
            return f"{_validator(response)}-{length}"
        finally:
            response.close()

    return _retry(ask, url, patience, progress=lambda: 0)


def download(
    url: str, target: Path, *, max_bytes: int | None, progress: Progress, patience: Patience = Patience()
) -> None:
    """Download a file, or the rest of one of which a part has arrived earlier.

    Args:
        url: ``http://`` or ``https://``.
        target: Appears complete or not at all.
        max_bytes: Largest size that is accepted; None = any.
        progress: Called with the bytes that have arrived and the total.
        patience: How long to wait for the server.

    Raises:
        DataError: The server refuses, keeps failing, sends a web page or more than `max_bytes`.
        OSError: The disk is full; the same call resumes later.
    """
    partial = PartialFile(target)
    _retry(
        lambda: _attempt(url, partial, max_bytes, progress, patience),
        url,
        patience,
        progress=lambda: partial.num_bytes,
    )
    partial.publish()


def _attempt(url: str, partial: PartialFile, max_bytes: int | None, progress: Progress, patience: Patience) -> None:
    validator = partial.version
    begin = partial.num_bytes if validator else 0
    response = _request(url, {"Range": f"bytes={begin}-", "If-Range": validator} if begin else {}, patience)
    try:
        if response.status == 416 and begin:  # all of it had arrived, or the file has become shorter
            partial.discard()
            raise TemporaryError("has no such range: the download starts over")
        _check_status(response, url)
        if response.status == 200:
            begin = 0  # the file has changed, or the server ignores ranges
        elif begin:
            _check_range(response, begin, validator)
        total = _total(response, begin)
        _check_content(response, url, total, max_bytes)
        if not begin:
            partial.discard()
            partial.start(_validator(response))
        _receive(response, url, partial, total, max_bytes, progress)
    except _OtherFile:
        partial.discard()
        raise
    except HTTPError as error:
        raise TemporaryError(f"broke off ({type(error).__name__})") from error
    finally:
        response.close()


def _receive(
    response: Any, url: str, partial: PartialFile, total: int | None, max_bytes: int | None, progress: Progress
) -> None:
    num_bytes = partial.num_bytes
    with partial.append() as file:
        while chunk := response.read1(_CHUNK_BYTES):  # what is there: a stall must not hide what came before it
            file.write(chunk)
            num_bytes += len(chunk)
            if max_bytes is not None and num_bytes > max_bytes:
                raise _too_large(url, num_bytes, max_bytes)
            progress(num_bytes, total)
    if total is not None and num_bytes != total:
        raise TemporaryError(f"sent {num_bytes:,} of {total:,} bytes")


def _request(url: str, headers: Mapping[str, str], patience: Patience) -> Any:
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    name, _, password = user_info.partition(":")
    login = urllib3.make_headers(basic_auth=f"{unquote(name)}:{unquote(password)}") if at else {}
    bare = urlunsplit(parts._replace(netloc=host))
    # A redirect from https to http would send data and login in the clear.
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=patience.connect_seconds, read=patience.stall_seconds),
        retries=urllib3.Retry(total=None, connect=0, read=0, other=0, redirect=_MAX_REDIRECTS, status=0),
    )
    try:
        response = pool.request(
            "GET", bare, headers={**login, **headers, "Accept-Encoding": "identity"}, preload_content=False
        )
    except MaxRetryError as error:
        if isinstance(error.reason, SSLError):
            raise DataError(
                f"{redact(url)}: its certificate does not verify",
                fix="set SSL_CERT_FILE to the certificate of the authority that signed it, if you trust that",
            ) from error
        if "redirect" in str(error.reason):
            raise DataError(f"{redact(url)}: more than {_MAX_REDIRECTS} redirects") from error
        raise TemporaryError(f"can't be reached ({type(error.reason).__name__})") from error
    except HTTPError as error:
        raise TemporaryError(f"broke off ({type(error).__name__})") from error
    if url.startswith("https://") and str(response.geturl() or "").startswith("http://"):
        response.close()
        raise DataError(f"{redact(url)}: redirects from https to http")
    return response


def _check_status(response: Any, url: str) -> None:
    status = response.status
    if status in _PERMANENT:
        raise DataError(f"{redact(url)}: the server {_PERMANENT[status]} ({status})")
    if status == 429 or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise TemporaryError(f"answers {status}", float(after) if after.isdigit() else 0.0)
    if status not in {200, 206}:
        raise DataError(f"{redact(url)}: the server answers {status}")


def _check_range(response: Any, begin: int, validator: str) -> None:
    """Raise if a part is not the rest of the file of which the beginning has arrived.

    Raises:
        TemporaryError: The download starts over.
    """
    place = str(response.headers.get("Content-Range", ""))
    now = _validator(response)
    if not place.startswith(f"bytes {begin}-") or (now and now != validator):
        raise _OtherFile(f"sends another part than was asked for ({place or 'it does not say which'})")


def _check_content(response: Any, url: str, total: int | None, max_bytes: int | None) -> None:
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise DataError(
            f"{redact(url)}: the server sends a web page, not data",
            fix="check the address, and whether it needs a login",
        )
    if max_bytes is not None and total is not None and total > max_bytes:
        raise _too_large(url, total, max_bytes)


def _too_large(url: str, size: int, max_bytes: int) -> DataError:
    return DataError(
        f"{redact(url)}: {size:,} bytes or more, and dataset.max_download_bytes={max_bytes}",
        fix="raise dataset.max_download_bytes if the size is right",
    )


def _total(response: Any, begin: int) -> int | None:
    """Return the size of the whole file in bytes; None if the server doesn't say."""
    length = response.headers.get("Content-Length")
    return begin + int(length) if length is not None and length.isdigit() else None


def _validator(response: Any) -> str:
    """Return what If-Range takes: a strong ETag, else the date; empty if there is neither."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _retry(attempt: Callable[[], T], url: str, patience: Patience, *, progress: Callable[[], int]) -> T:
    try:
        return retry(attempt, patience.retry, progress=progress)
    except TemporaryError as error:
        raise DataError(
            f"{redact(url)}: the server {error}, {patience.retry.max_attempts} times in a row",
            fix="repeat the command: the download resumes where it stopped",
        ) from error
