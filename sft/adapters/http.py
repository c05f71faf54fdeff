"""Owns downloads over HTTP(S): resumed, repeated, checked."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from sft.adapters.http_client import HttpClient, RefusedAddress, Unanswered, Untrusted
from sft.adapters.partial_file import PartialFile, too_large
from sft.adapters.retry import RetryPolicy, TemporaryError, retry, retry_after_seconds
from sft.errors import DataError
from sft.redaction import redact

T = TypeVar("T")

_CHUNK_BYTES = 1 << 18
_SLOW_BYTES = 1 << 16
_MAX_REDIRECTS = 5
_MAX_DIGITS = 18
_BUSY = {408, 425, 429}
_CHECK_ADDRESS = "check dataset.uri, or the held-out set's"
_CHECK_LOGIN = f"{_CHECK_ADDRESS}; a login is written into it: https://TOKEN@host/… or https://USER:PASSWORD@host/…"
_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?:(?P<size>[0-9]{1,18})|\*)", re.ASCII)
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
        slow_seconds: Longest time in which less than 64 KiB arrive.
        retry: Attempts; one that brings new bytes starts their count anew.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    slow_seconds: float = 300.0
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_attempts=6, first_wait_seconds=1.0))


Progress = Callable[[int, int | None], None]


class _OtherFile(TemporaryError):
    """What arrives is not the rest of what has arrived."""


def version(url: str, patience: Patience = Patience(), *, max_bytes: int | None = None) -> str:
    """Return what changes if the content may have changed: ETag or date, and length.

    Of a server that tells neither, the content is read to its end, and its sha256 is what is returned.

    Args:
        url: ``http://`` or ``https://``.
        patience: How long to wait for the server.
        max_bytes: Largest size that is read for its sha256; None = any.

    Raises:
        DataError: The server can't be reached, has no such file, or sends more than `max_bytes`.
    """

    def ask() -> str:
        response = _request(url, {"Range": "bytes=0-0"}, patience)
        try:
            _check_status(response, url)
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            length = total or response.headers.get("Content-Length", "")
            told = _marks_of_change(response)
            return f"{told}-{length}" if told else ""
        finally:
            response.close()

    return _retry(ask, url, patience, progress=lambda: 0) or _retry(
        lambda: _digest(url, max_bytes, patience), url, patience, progress=lambda: 0
    )


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
        else:
            _check_part(response, begin, validator)
        total = _total(response, begin)
        _check_content(response, url, total, max_bytes)
        if not begin:
            partial.discard()
            partial.start(_validator(response))
        with partial.append() as file:
            _receive(response, url, file.write, partial.num_bytes, total, max_bytes, progress, patience.slow_seconds)
    except _OtherFile:
        partial.discard()
        raise
    except HTTPError as error:
        raise TemporaryError(f"broke off ({type(error).__name__})") from error
    finally:
        response.close()


def _digest(url: str, max_bytes: int | None, patience: Patience) -> str:
    """Return the sha256 of what the server sends now; nothing is kept."""
    response, digest = _request(url, {}, patience), hashlib.sha256()
    try:
        _check_status(response, url)
        total = _total(response, 0)
        _check_content(response, url, total, max_bytes)
        _receive(response, url, digest.update, 0, total, max_bytes, lambda *_: None, patience.slow_seconds)
    except HTTPError as error:
        raise TemporaryError(f"broke off ({type(error).__name__})") from error
    finally:
        response.close()
    return f"sha256-{digest.hexdigest()}"


def _receive(
    response: Any,
    url: str,
    take: Callable[[bytes], object],
    num_bytes: int,
    total: int | None,
    max_bytes: int | None,
    progress: Progress,
    slow_seconds: float,
) -> None:
    """Give what arrives after the first `num_bytes` to `take`."""
    deadline, wanted = time.monotonic() + slow_seconds, num_bytes + _SLOW_BYTES
    while chunk := response.read1(_CHUNK_BYTES):  # what is there: a stall must not hide what came before it
        take(chunk)
        num_bytes += len(chunk)
        if max_bytes is not None and num_bytes > max_bytes:
            raise too_large(url, num_bytes, max_bytes)
        progress(num_bytes, total)
        if num_bytes >= wanted:
            deadline, wanted = time.monotonic() + slow_seconds, num_bytes + _SLOW_BYTES
        elif time.monotonic() > deadline:
            message = f"{redact(url)}: less than {_SLOW_BYTES >> 10} KiB arrived in {slow_seconds:g} s"
            raise DataError(message, fix="fetch it by other means, or repeat the command when the server is faster")
    if total is not None and num_bytes != total:
        raise TemporaryError(f"sent {num_bytes:,} of {total:,} bytes")


def _request(url: str, headers: Mapping[str, str], patience: Patience) -> Any:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DataError(
            f"{redact(url)}: is not an address that can be asked ({error})", fix="check dataset.uri"
        ) from error
    user_info, at, host = parts.netloc.rpartition("@")
    name, _, password = user_info.partition(":")
    login = urllib3.make_headers(basic_auth=f"{unquote(name)}:{unquote(password)}") if at else {}
    bare = urlunsplit(parts._replace(netloc=host))
    client = HttpClient(urllib3.Timeout(connect=patience.connect_seconds, read=patience.stall_seconds))
    headers = {**login, **headers, "Accept-Encoding": "identity"}
    try:
        return client.request("GET", bare, headers, max_redirects=_MAX_REDIRECTS)
    except Untrusted as error:
        raise DataError(
            f"{redact(url)}: its certificate does not verify",
            fix="set SSL_CERT_FILE to the certificate of the authority that signed it, if you trust that",
        ) from error
    except RefusedAddress as error:
        raise DataError(
            f"{redact(url)}: {error}", fix=f"{_CHECK_ADDRESS}, and the proxy that the environment names"
        ) from error
    except Unanswered as error:
        raise TemporaryError(f"can't be reached ({error})") from error


def _check_status(response: Any, url: str) -> None:
    status = response.status
    if status in _PERMANENT:
        fix = _CHECK_LOGIN if status in {401, 403} else _CHECK_ADDRESS
        raise DataError(f"{redact(url)}: the server {_PERMANENT[status]} ({status})", fix=fix)
    if status in _BUSY or status >= 500:
        raise TemporaryError(f"answers {status}", retry_after_seconds(response.headers.get("Retry-After", "")))
    if status not in {200, 206}:
        raise DataError(f"{redact(url)}: the server answers {status}", fix=_CHECK_ADDRESS)


def _check_part(response: Any, begin: int, validator: str | None) -> None:
    """Raise if a part is not what was asked for: the rest of the file of which the beginning has arrived, or all of it.

    Raises:
        TemporaryError: The download starts over.
    """
    place = str(response.headers.get("Content-Range", ""))
    part, now = _RANGE.fullmatch(place.strip()), _validator(response)
    is_rest = part is not None and int(part["first"]) == begin
    if part is not None and part["size"]:
        is_rest &= int(part["last"]) + 1 == int(part["size"])
    if part is not None and (length := _length(response)) is not None:
        is_rest &= int(part["last"]) + 1 - begin == length
    if not is_rest or (begin and now and now != validator):
        raise _OtherFile(f"sends another part than was asked for ({place or 'it does not say which'})")


def _check_content(response: Any, url: str, total: int | None, max_bytes: int | None) -> None:
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise DataError(
            f"{redact(url)}: the server sends a web page, not data",
            fix="check the address, and whether it needs a login",
        )
    if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
        message = f"{redact(url)}: the server sends it in the coding {coding[:40]}, which was not asked for"
        raise DataError(message, fix="fetch it by other means (curl --compressed), or name the .gz itself")
    if max_bytes is not None and total is not None and total > max_bytes:
        raise too_large(url, total, max_bytes)


def _total(response: Any, begin: int) -> int | None:
    """Return the size of the whole file in bytes; None if the server doesn't say."""
    length = _length(response)
    return None if length is None else begin + length


def _length(response: Any) -> int | None:
    """Return the bytes of this answer; None if the server doesn't say."""
    text = str(response.headers.get("Content-Length", ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _validator(response: Any) -> str:
    """Return what If-Range takes: a strong ETag, else the date; empty if there is neither."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _marks_of_change(response: Any) -> str:
    """Return a strong ETag, else a weak one and the date; empty if there is neither."""
    tag = str(response.headers.get("ETag", ""))
    date = str(response.headers.get("Last-Modified", ""))
    return tag if tag and not tag.startswith("W/") else f"{tag}{date}"


def _retry(attempt: Callable[[], T], url: str, patience: Patience, *, progress: Callable[[], int]) -> T:
    try:
        return retry(attempt, patience.retry, progress=progress)
    except TemporaryError as error:
        raise DataError(
            f"{redact(url)}: the server {error}, {patience.retry.max_attempts} times in a row",
            fix="repeat the command: the download resumes where it stopped",
        ) from error
