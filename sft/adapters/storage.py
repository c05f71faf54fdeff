"""Owns where bytes lie: a uri in, files that can be opened and a fingerprint out. Only here: fsspec, s3fs.

Does not own what is in the files (`sft.adapters.readers`), nor the hub (`sft.adapters.hub`).
"""

from __future__ import annotations

import copy
import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sft.adapters.os.child import write_json
from sft.adapters.readers import supported
from sft.errors import DataError
from sft.logs import redact

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOCAL_SCHEMES = {"", "file", "pvc"}
_S3_SCHEMES = {"s3", "s3a"}
_CHUNK_BYTES = 4 << 20
_TRIES = 4
_BACKOFF_SECONDS = 0.5
_FINAL = (FileNotFoundError, PermissionError, TypeError, ValueError)
_WHEN_DONE = "read it when it is done"
_VERSION_FACTS = (  # each filesystem tells some of these
    *("ETag", "etag", "VersionId", "generation", "sha", "LastModified", "Last-Modified", "last_modified"),
    *("modified", "modify", "modificationTime", "mtime", "updated", "created", "size"),
)
_GLOB = re.compile(r"[*?\[]")
_ABOUT_A_DATASET = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


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
        raise DataError(f"{redact(uri)}: no file that can be read", fix="point it at .jsonl, .json, .csv or .parquet")
    return files


def _is_data(name: str) -> bool:
    """Return whether a file of a folder holds rows: hidden files and what `datasets` writes about a dataset do not."""
    base = PurePosixPath(name).name
    return supported(base) and not base.startswith((".", "__")) and base not in _ABOUT_A_DATASET


def _check_no_arrow(uri: str, names: Iterable[str]) -> None:
    """Raise `DataError` if a folder is what `datasets` writes with ``save_to_disk``."""
    if any(name.endswith(".arrow") for name in names):
        message = f"{redact(uri)}: holds .arrow files, as Dataset.save_to_disk writes them"
        raise DataError(message, fix="write the dataset with Dataset.to_json or to_parquet")


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
            raise DataError(f"{file.name}: changed while it was read", fix=_WHEN_DONE)
    except OSError as error:
        raise DataError(f"{file.name}: {_said(error)}") from error


def fetch(
    file: SourceFile, target: Path, options: Mapping[str, Any], progress: Callable[[int, int | None], None]
) -> None:
    """Copies a remote file, from where an earlier try has stopped; `target` appears complete or not at all.

    What has arrived lies in ``<target>.part``, the version that it is a part of in ``<target>.part.json``. After a
    broken connection at most `_CHUNK_BYTES` come a second time.

    Args:
        file: What `find` has found.
        target: Where the copy goes.
        options: Passed to fsspec as they are.
        progress: Called with bytes so far and in all.

    Raises:
        DataError: It can't be read, or goes on changing while it is read.
        OSError: The disk is full; the same call goes on later.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    remote = _remote(file.name, options)
    failures = changes = 0
    version: str | None = None
    while True:
        begin = _num_bytes(part)
        try:
            info = remote.info()
            now = remote.file(info).version
            changes += version not in {None, now}
            if changes == _TRIES:
                raise DataError(f"{redact(file.name)}: changes again and again while it is read", fix=_WHEN_DONE)
            version = now
            _keep_only(version, part)
            _copy(remote, part, info["size"], progress)
            if remote.file(remote.info()).version == version:
                break
        except _Interrupted as error:
            failures = 1 if _num_bytes(part) > begin else failures + 1
            if failures == _TRIES:
                raise DataError(error.message, fix="the same command goes on from where it stopped") from error
            time.sleep(_BACKOFF_SECONDS * 2 ** (failures - 1))
    part.rename(target)
    _note(part).unlink()


def _keep_only(version: str, part: Path) -> None:
    """Keeps what has arrived where it is a part of this version."""
    note = _note(part)
    if not note.exists() or json.loads(note.read_text(encoding="utf-8"))["version"] != version:
        part.unlink(missing_ok=True)  # before the note: a kill in between must not make it a part of this version
        write_json(note, {"version": version})


def _copy(remote: _Remote, part: Path, num_bytes: int | None, progress: Callable[[int, int | None], None]) -> None:
    """Appends what `part` lacks."""
    with _reading(remote.uri):
        source = remote.filesystem.open(remote.path, "rb", block_size=_CHUNK_BYTES, cache_type="none")
    with source, part.open("ab") as sink:
        source.seek(sink.tell())
        while True:
            with _reading(remote.uri):
                chunk = source.read(_CHUNK_BYTES)
            if not chunk:
                break
            sink.write(chunk)
            progress(sink.tell(), num_bytes)
        arrived = sink.tell()
    if num_bytes not in {None, arrived}:
        part.unlink()
        raise _Interrupted(f"{redact(remote.uri)}: {arrived} of {num_bytes} bytes arrived")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _num_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


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
            found = _files_of_folder(path)
        elif path.exists() or not _GLOB.search(str(path)):
            found = [path]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            found = [f for f in map(Path, names) if f.is_file() and f.name not in _ABOUT_A_DATASET]
        for file in found:
            _check_name(str(file))
        return [SourceFile(str(f), stat_version(f)) for f in sorted(found)]
    except OSError as error:
        fix = f"relative paths start at {Path.cwd()}" if not path.is_absolute() else None
        raise DataError(f"dataset.uri={path}: {_said(error)}", fix=fix) from error


def _check_name(name: str) -> None:
    """Raise `DataError` if a file's name is not UTF-8: no record could hold it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name!r}: the file's name is not UTF-8", fix="rename it") from error


def _files_of_folder(folder: Path) -> list[Path]:
    """Return a folder's files of rows, or those of its ``data`` folder, where the hub's datasets have them."""
    for place in (folder, folder / "data"):
        present = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        if files := [path for path in present if _is_data(path.name)]:
            return files
        _check_no_arrow(str(folder), [path.name for path in present])
    below = sorted({str(path.parent) for path in folder.glob("*/*") if path.is_file() and _is_data(path.name)})
    if below:
        raise DataError(f"dataset.uri={folder}: only its folders hold files of rows", fix=f"dataset.uri={below[0]}")
    return []


def _find_remote(uri: str, options: Mapping[str, Any]) -> list[SourceFile]:
    remote = _remote(uri, options)
    filesystem, path = remote.filesystem, remote.path
    with _reading(uri):
        filesystem.invalidate_cache()  # it outlives a run: the next one of a sweep would see this one's listing
        if _GLOB.search(path):
            infos = [info for info in filesystem.glob(path, detail=True).values() if info["type"] == "file"]
        else:
            infos = [filesystem.info(path)]
            if infos[0]["type"] == "directory":
                infos = _files_of_remote_folder(uri, filesystem, path)
    return sorted(map(remote.file, infos), key=lambda file: file.name)


def _files_of_remote_folder(uri: str, filesystem: Any, path: str) -> list[Mapping[str, Any]]:
    listed = filesystem.ls(path, detail=True)
    folders = [info["name"] for info in listed if info["type"] == "directory"]
    data = next((name for name in folders if PurePosixPath(name).name == "data"), None)
    for infos in (listed, filesystem.ls(data, detail=True) if data else []):
        present = [info for info in infos if info["type"] == "file"]
        if files := [info for info in present if _is_data(info["name"])]:
            return files
        _check_no_arrow(uri, [info["name"] for info in present])
    return []


@dataclass(frozen=True)
class _Remote:
    """What fsspec makes of a uri."""

    uri: str
    filesystem: Any
    path: str

    def info(self) -> Mapping[str, Any]:
        """The file's facts as they are now."""
        with _reading(self.uri):
            self.filesystem.invalidate_cache()
            info: Mapping[str, Any] = self.filesystem.info(self.path)
            return info

    def file(self, info: Mapping[str, Any]) -> SourceFile:
        """A file of it; the uri keeps the server, which a filesystem's own names lack."""
        facts = [info.get(key) for key in _VERSION_FACTS]
        name, uri, path = str(info["name"]), self.uri.rstrip("/"), self.path.rstrip("/")
        server = uri.removesuffix(path)
        if not uri.endswith(path) or "://" not in server:
            server, name = "", str(self.filesystem.unstrip_protocol(name))
        return SourceFile(server + name, "-".join(str(fact) for fact in facts if fact is not None))


def _remote(uri: str, options: Mapping[str, Any]) -> _Remote:
    import fsspec

    if scheme(uri) in _S3_SCHEMES:
        _check_aws_keys()
    try:
        fsspec.get_filesystem_class(scheme(uri))
    except (ImportError, ValueError) as error:  # they name the package to install, or the scheme
        raise DataError(f"{redact(uri)}: {error}") from error
    given = {key: copy.deepcopy(value) for key, value in options.items() if value is not None}  # botocore edits its own
    with _reading(uri):
        filesystem, path = fsspec.url_to_fs(uri, **given)
        return _Remote(uri, filesystem, path)


class _Interrupted(DataError):
    """A failure that may pass."""


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Puts into our words whatever a filesystem raises: each package behind fsspec has exceptions of its own.

    Raises:
        DataError: It would fail again.
        _Interrupted: It may pass.
    """
    try:
        yield
    except Exception as error:
        kind = DataError if isinstance(error, _FINAL) else _Interrupted
        raise kind(f"{redact(uri)}: {_said(error)}", fix=_fix(uri, error)) from error


def _fix(uri: str, error: Exception) -> str | None:
    if isinstance(error, TypeError | ValueError):
        return "check dataset.storage_options"
    if scheme(uri) not in _S3_SCHEMES:
        return None
    if isinstance(error, FileNotFoundError):
        return "check the bucket and the key"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "set AWS_CA_BUNDLE to the authority's certificate if you trust it"
    return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and dataset.storage_options.endpoint_url"


def _check_aws_keys() -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    present = [name for name in names if os.environ.get(name)]
    if len(present) == 1:
        absent = next(name for name in names if name not in present)
        raise DataError(f"{present[0]} is set and {absent} is not", fix="set both, or neither to use the AWS chain")


def _said(error: Exception) -> str:
    """An operating system's or server's error in its own words."""
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return "no such file"
    return redact(" ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split()))
