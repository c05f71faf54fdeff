"""Owns where bytes lie: a uri in, files that can be opened and a fingerprint out. Only here: fsspec, s3fs.

Does not own what is in the files (`sft.adapters.readers`), nor the hub (`sft.adapters.hub`).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sft.adapters.readers import supported
from sft.errors import DataError

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOCAL_SCHEMES = {"", "file", "pvc"}
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
def opened(file: SourceFile, options: Mapping[str, Any]) -> Iterator[IO[bytes]]:
    """One file, open for reading.

    Raises:
        DataError: It can't be opened or read.
    """
    try:
        if is_local(file.name):
            with Path(file.name).open("rb", buffering=1 << 20) as stream:
                yield stream
        else:
            filesystem, path = _filesystem(file.name, options)
            with filesystem.open(path, "rb") as stream:
                yield stream
    except OSError as error:
        raise DataError(f"{file.name}: {_said(error)}") from error


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
        if _GLOB.search(path) and scheme(uri) not in {"http", "https"}:
            infos = [filesystem.info(name) for name in filesystem.glob(path)]
        else:
            info = filesystem.info(path)
            infos = filesystem.ls(path, detail=True) if info["type"] == "directory" else [info]
            if info["type"] == "directory":
                infos = [i for i in infos if i["type"] == "file" and supported(i["name"])]
    except OSError as error:
        raise DataError(f"dataset.uri={uri}: {_said(error)}") from error
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


def _said(error: OSError) -> str:
    """An operating system's or server's error in its own words."""
    return error.strerror or str(error) or type(error).__name__
