"""Owns where bytes lie: a uri in, files that can be opened and a fingerprint out. Only here: fsspec, s3fs.

Does not own what is in the files (`sft.adapters.readers`), nor the hub (`sft.adapters.hub`).
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sft.adapters.child import write_json
from sft.adapters.readers import supported
from sft.errors import DataError
from sft.logs import redact

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOCAL_SCHEMES = {"", "file", "pvc"}
_CHUNK_BYTES = 4 << 20
_TRIES = 4
_BACKOFF_SECONDS = 0.25
_OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: Path or uri, for messages and for the kind of file.
        version: What changes when the content may have: size and times, or the server's ETag.
    """

    name: str
    version: str


def scheme(uri: str) -> str:
    """``s3`` of ``s3://bucket/key``; empty for a path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def is_local(uri: str) -> bool:
    """Whether a uri is a path on this machine or a mounted volume."""
    return scheme(uri) in _LOCAL_SCHEMES


def find(uri: str, options: Mapping[str, Any]) -> list[SourceFile]:
    """The files behind a file, folder or glob, in name order; at least one.

    Args:
        uri: Path, ``file://``, ``pvc://``, or any scheme that fsspec knows.
        options: Passed to fsspec as they are.

    Raises:
        DataError: There is no such file, it can't be reached, or nothing in the folder can be read.
    """
    files = _find_local(local_path(uri)) if is_local(uri) else _find_remote(uri, options)
    if not files:
        raise DataError(f"{uri}: no file that can be read", fix="point it at .jsonl, .json, .csv or .parquet")
    return files


@contextmanager
def opened(file: SourceFile) -> Iterator[IO[bytes]]:
    """One local file, open for reading.

    Raises:
        DataError: It can't be opened or read, or was replaced or rewritten meanwhile.
    """
    try:
        with Path(file.name).open("rb", buffering=1 << 20) as stream:
            yield stream
        if stat_version(Path(file.name)) != file.version:
            raise DataError(f"{file.name}: changed while it was read", fix="read it when it is done")
    except OSError as error:
        raise DataError(f"{file.name}: {_said(error)}") from error


def fetch(
    file: SourceFile, target: Path, options: Mapping[str, Any], progress: Callable[[int, int | None], None]
) -> None:
    """Copies a remote file, from where an earlier try has stopped; `target` appears complete or not at all.

    What has arrived lies in ``<target>.part``, the version that it is a part of in ``<target>.part.json``.

    Raises:
        DataError: It can't be read, or goes on changing while it is read.
        OSError: The disk is full; the same call goes on later.
    """
    part = target.with_name(f"{target.name}.part")
    note = part.with_name(f"{part.name}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    filesystem, path = _filesystem(file.name, options)
    failures = changes = 0
    while True:
        begin = part.stat().st_size if part.exists() else 0
        try:
            now = _remote_file(filesystem, _info(filesystem, path)).version
            if not note.exists() or json.loads(note.read_text(encoding="utf-8"))["version"] != now:
                write_json(note, {"version": now})
                part.unlink(missing_ok=True)
                begin = 0
            _copy(filesystem, path, part, begin, progress)
            if _remote_file(filesystem, _info(filesystem, path)).version == now:
                break
            changes += 1
            if changes == _TRIES:
                raise DataError(
                    f"{file.name}: changed {changes} times while it was read", fix="read it when it is done"
                )
        except _errors() as error:
            if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
                raise
            arrived = part.stat().st_size if part.exists() else 0
            failures = 1 if arrived > begin else failures + 1
            if failures == _TRIES or isinstance(error, FileNotFoundError | PermissionError):
                raise DataError(f"{file.name}: {_said(error)}", fix="the same command goes on") from error
            time.sleep(_BACKOFF_SECONDS * 2**failures)
    part.rename(target)
    note.unlink()


def _copy(filesystem: Any, path: str, part: Path, begin: int, progress: Callable[[int, int | None], None]) -> None:
    with filesystem.open(path, "rb", block_size=_CHUNK_BYTES) as source, part.open("ab") as copy:
        source.seek(begin)
        while chunk := source.read(_CHUNK_BYTES):
            copy.write(chunk)
            progress(copy.tell(), source.size)


def _info(filesystem: Any, path: str) -> Mapping[str, Any]:
    filesystem.invalidate_cache()
    info: Mapping[str, Any] = filesystem.info(path)
    return info


def _errors() -> tuple[type[Exception], ...]:
    """What reading a remote file may raise: beside `OSError` botocore's own, where it is installed."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return OSError, BotoCoreError, ClientError


def local_path(uri: str) -> Path:
    """The path behind a local uri: ``pvc://claim/data`` is ``/claim/data``, ``~`` is the home folder."""
    if scheme(uri) == "pvc":
        return Path("/") / uri[len("pvc://") :]
    return Path(uri[len("file://") :] if scheme(uri) else uri).expanduser()


def stat_version(path: Path) -> str:
    """What changes when a local file may have changed: inode, size, times."""
    facts = path.stat()
    return f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}"


def _find_local(path: Path) -> list[SourceFile]:
    try:
        if path.is_dir():
            found = [f for f in path.iterdir() if f.is_file() and supported(f.name)]
        elif path.exists() or not _GLOB.search(str(path)):
            found = [path]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            found = [f for f in map(Path, names) if f.is_file()]
        return [SourceFile(str(f), stat_version(f)) for f in sorted(found)]
    except OSError as error:
        fix = f"relative paths start at {Path.cwd()}" if not path.is_absolute() else None
        raise DataError(f"dataset.uri={path}: {_said(error)}", fix=fix) from error


def _find_remote(uri: str, options: Mapping[str, Any]) -> list[SourceFile]:
    filesystem, path = _filesystem(uri, options)
    try:
        if _GLOB.search(path):
            infos = [filesystem.info(name) for name in filesystem.glob(path)]
        else:
            info = filesystem.info(path)
            infos = filesystem.ls(path, detail=True) if info["type"] == "directory" else [info]
            if info["type"] == "directory":
                infos = [i for i in infos if i["type"] == "file" and supported(i["name"])]
    except _errors() as error:
        fix = (
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket"
            if isinstance(error, PermissionError)
            else None
        )
        raise DataError(f"dataset.uri={redact(uri)}: {_said(error)}", fix=fix) from error
    return sorted((_remote_file(filesystem, info) for info in infos), key=lambda file: file.name)


def _remote_file(filesystem: Any, info: Mapping[str, Any]) -> SourceFile:
    facts = [info.get(key) for key in ("ETag", "VersionId", "LastModified", "Last-Modified", "mtime", "size")]
    return SourceFile(str(filesystem.unstrip_protocol(info["name"])), "-".join(str(f) for f in facts if f is not None))


def _filesystem(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    if scheme(uri) in {"s3", "s3a"}:
        _check_aws_keys()
    try:
        filesystem, path = fsspec.url_to_fs(uri, **{k: v for k, v in options.items() if v is not None})
    except (ImportError, ValueError) as error:
        raise DataError(f"dataset.uri={uri}: {error}") from error
    return filesystem, str(path)


def _check_aws_keys() -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    present = [name for name in names if os.environ.get(name)]
    if len(present) == 1:
        absent = next(name for name in names if name not in present)
        raise DataError(f"{present[0]} is set and {absent} is not", fix="set both, or neither to use the AWS chain")


def _said(error: Exception) -> str:
    """An operating system's or server's error in its own words."""
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return "no such file, or the bucket is another one"
    return redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
