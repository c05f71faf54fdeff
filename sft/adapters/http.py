"""Owns downloads over HTTP(S): resumable, retried, checked. urllib3 otherwise only for OCI registries.

What has arrived lies in ``<target>.part``, what it is a part of in ``<target>.part.json``; ``target`` appears whole.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from sft.errors import DataError
from sft.files import write_json
from sft.logs import redact

_CHUNK_BYTES = 1 << 18
_MAX_REDIRECTS = 5
_PERMANENT = {
    401: "asks for a login",
    403: "refuses access",
    404: "has no such file",
    410: "has that file no more",
}


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        stall_seconds: Longest silence within a download.
        tries: Attempts in a row that bring nothing new before giving up.
        backoff_seconds: Wait after the first failed attempt; it doubles each time, up to a minute.
    """

    connect_seconds: float = 10.0
    stall_seconds: float = 30.0
    tries: int = 6
    backoff_seconds: float = 1.0


class _Again(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        after_seconds: What the server asked to wait.
    """

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


Progress = Callable[[int, int | None], None]


def version(url: str, patience: Patience = Patience()) -> str:
    """What changes when the content may have changed: ETag or date, and length.

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

    return str(_patiently(ask, url, patience, lambda: 0))


def download(
    url: str, target: Path, *, max_bytes: int | None, progress: Progress, patience: Patience = Patience()
) -> None:
    """Fetches a file, from where an earlier try has stopped.

    Args:
        url: ``http://`` or ``https://``.
        target: Appears complete or not at all.
        max_bytes: Largest size that is accepted; None = any.
        progress: Called with bytes so far and in all.
        patience: How long a server is waited for.

    Raises:
        DataError: The server refuses, goes on failing, sends a web page or more than `max_bytes`.
        OSError: The disk is full; the same call goes on later.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)

    def arrived() -> int:
        return part.stat().st_size if part.exists() else 0

    _patiently(lambda: _attempt(url, part, max_bytes, progress, patience), url, patience, arrived)
    part.rename(target)
    _note(part).unlink()


def _attempt(url: str, part: Path, max_bytes: int | None, progress: Progress, patience: Patience) -> None:
    had, validator = _state(part)
    headers = {"Range": f"bytes={had}-", "If-Range": validator} if had and validator else {}
    response = _request(url, headers, patience)
    try:
        if response.status == 416 and had:  # all of it had arrived, or the file has become shorter
            part.unlink()
            raise _Again("has no such range: starting over")
        _check_status(response, url)
        if response.status == 200:
            had = 0  # the file is another one by now, or the server knows no ranges
        total = _total(response, had)
        _check_content(response, url, total, max_bytes)
        write_json(_note(part), {"validator": _validator(response), "total": total})
        with part.open("r+b" if had else "wb") as file:
            file.seek(had)
            while chunk := response.read1(_CHUNK_BYTES):  # what is there: a stall must not hide what came before it
                file.write(chunk)
                had += len(chunk)
                if max_bytes is not None and had > max_bytes:
                    raise _too_large(url, had, max_bytes)
                progress(had, total)
        if total is not None and had != total:
            raise _Again(f"sent {had} of {total} bytes")
    except HTTPError as error:
        raise _Again(f"broke off ({type(error).__name__})") from error
    finally:
        response.close()


def _request(url: str, headers: Mapping[str, str], patience: Patience) -> Any:
    parts = urlsplit(url)
    login = urllib3.make_headers(basic_auth=f"{parts.username}:{parts.password}") if parts.username else {}
    bare = url.replace(f"{parts.username}:{parts.password}@", "", 1) if parts.username else url
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
                fix="set SSL_CERT_FILE to the authority's certificate if you trust it",
            ) from error
        if "redirect" in str(error.reason):
            raise DataError(f"{redact(url)}: more than {_MAX_REDIRECTS} redirects") from error
        raise _Again(f"can't be reached ({type(error.reason).__name__})") from error
    except HTTPError as error:
        raise _Again(f"broke off ({type(error).__name__})") from error
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
        raise _Again(f"answers {status}", float(after) if after.isdigit() else None)
    if status not in {200, 206}:
        raise DataError(f"{redact(url)}: the server answers {status}")


def _check_content(response: Any, url: str, total: int | None, max_bytes: int | None) -> None:
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("text/html"):
        raise DataError(f"{redact(url)}: the server sends a web page, not data", fix="is a login needed?")
    if max_bytes is not None and total is not None and total > max_bytes:
        raise _too_large(url, total, max_bytes)


def _too_large(url: str, size: int, max_bytes: int) -> DataError:
    return DataError(
        f"{redact(url)}: {size:,} bytes or more, and dataset.max_download_bytes={max_bytes}",
        fix="raise dataset.max_download_bytes if the size is right",
    )


def _total(response: Any, had: int) -> int | None:
    """Bytes of the whole file; None where the server doesn't say."""
    length = response.headers.get("Content-Length")
    return had + int(length) if length is not None and length.isdigit() else None


def _validator(response: Any) -> str:
    """What If-Range takes: a strong ETag, else the date; empty where there is neither."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(response.headers.get("Last-Modified", ""))


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _state(part: Path) -> tuple[int, str]:
    """Bytes that have arrived, and the validator of the file that they are a part of."""
    if not part.exists() or not _note(part).exists():
        return 0, ""
    return part.stat().st_size, str(json.loads(_note(part).read_text(encoding="utf-8"))["validator"])


def _patiently(attempt: Callable[[], Any], url: str, patience: Patience, arrived: Callable[[], int]) -> Any:
    """Repeats an attempt while it may still succeed; one that brought new bytes starts the count anew."""
    failures = 0
    while True:
        before = arrived()
        try:
            return attempt()
        except _Again as error:
            failures = 1 if arrived() > before else failures + 1
            if failures >= patience.tries:
                raise DataError(
                    f"{redact(url)}: the server {error}, {failures} times in a row",
                    fix="the same command goes on from where it stopped",
                ) from error
            wait = patience.backoff_seconds * 2 ** (failures - 1) * random.uniform(0.5, 1.0)
            time.sleep(min(60.0, max(wait, error.after_seconds or 0.0)))
