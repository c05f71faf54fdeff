"""Owns files behind a uri: finds them, downloads them, and says when they have changed. Only here: fsspec.

Does not own those of this machine (`sft.adapters.local_files`), nor the Hugging Face hub (`sft.adapters.hub`).
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sft.adapters import local_files
from sft.adapters.local_files import STILL_WRITTEN, SourceFile, check_no_arrow, is_data, is_glob, is_local, scheme
from sft.adapters.partial_file import PartialFile, too_large
from sft.adapters.retry import RetryPolicy, retry
from sft.errors import DataError
from sft.redaction import redact

S3_SCHEMES = {"s3", "s3a"}
_SERVERS = {
    *S3_SCHEMES,
    *("gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "hdfs", "webhdfs", "dbfs", "lakefs", "oci", "oss", "tos"),
    *("ftp", "sftp", "ssh", "smb", "github", "gist", "webdav", "box", "gdrive", "dropbox", "root", "memory"),
}
"""Schemes that name where files are. fsspec has others, which name what it makes of other files, with templates, caches
and processes of their own: ``reference``, ``filecache``, ``dask``, …
"""
_CHAIN = "::"
_CHUNK_BYTES = 4 << 20
_RETRY = RetryPolicy(max_attempts=4, first_wait_seconds=0.5)
_MAX_VERSIONS = 4
_PERMANENT = (FileNotFoundError, PermissionError, TypeError, ValueError)
_CONTENT_FACTS = (  # each filesystem gives some of these
    *("ETag", "etag", "VersionId", "generation", "sha", "LastModified", "Last-Modified", "last_modified"),
    *("modified", "modify", "modificationTime", "mtime", "updated", "created", "blob_id", "xet_hash"),
    *("checksum", "content_hash", "md5Checksum", "modification_time", "modifiedTime", "modified_at"),
    *("server_modified", "last_write_time"),
)


def find(uri: str, options: Mapping[str, Any], *, follow_links: bool = False) -> list[SourceFile]:
    """Return the files behind a uri of a file, folder or glob, at least one, sorted by name.

    Args:
        uri: Path, ``file://``, ``pvc://``, or a scheme of `_SERVERS`.
        options: Passed to fsspec unchanged.
        follow_links: Whether links out of a folder of this machine are followed.

    Raises:
        DataError: There is no such file, it can't be reached, or nothing in the folder can be read.
    """
    if _CHAIN in uri and not (is_local(uri) and local_files.local_path(uri).exists()):
        fix = "unpack it, or name the file alone"
        raise DataError(f"{redact(uri)}: addresses within addresses ({_CHAIN}) are not read", fix=fix)
    files = local_files.find(uri, follow_links=follow_links) if is_local(uri) else _find_remote(uri, options)
    if not files:
        raise DataError(f"{redact(uri)}: no file that can be read", fix="point it at .jsonl, .json, .csv or .parquet")
    return files


def download(
    file: SourceFile,
    target: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int | None], None],
    *,
    max_bytes: int | None = None,
) -> None:
    """Download a remote file, or the rest of one of which a part has arrived earlier.

    After a broken connection at most `_CHUNK_BYTES` arrive a second time.

    Args:
        file: One that `find` returned.
        target: Appears complete or not at all.
        options: Passed to fsspec unchanged.
        progress: Called with the bytes that have arrived and the total.
        max_bytes: Largest size that is accepted; None = any.

    Raises:
        DataError: It is larger, can't be read, or keeps changing while it is read.
        OSError: The disk is full; the same call resumes later.
    """
    partial, remote = PartialFile(target), open_remote(file.name, options)
    versions: list[str] = []
    try:
        retry(
            lambda: _download_unchanged(remote, partial, versions, progress, max_bytes),
            _RETRY,
            on=_Interrupted,
            progress=lambda: partial.num_bytes,
        )
    except _Interrupted as error:
        raise DataError(error.message, fix="repeat the command: the download resumes where it stopped") from error
    partial.publish()


def _download_unchanged(
    remote: Remote,
    partial: PartialFile,
    versions: list[str],
    progress: Callable[[int, int | None], None],
    max_bytes: int | None,
) -> None:
    """Download until the file is at the end what it was at the beginning; add each version to `versions`."""
    while True:
        info = remote.info()
        version = remote.file(info).version
        if versions[-1:] != [version]:
            versions.append(version)
        if len(versions) > _MAX_VERSIONS:
            raise DataError(f"{redact(remote.uri)}: keeps changing while it is read", fix=STILL_WRITTEN)
        _check_size(remote, info["size"] or 0, max_bytes)
        partial.start(version)
        _append(remote, partial, info["size"], progress, max_bytes)
        if remote.file(remote.info()).version == version:
            return


def _append(
    remote: Remote,
    partial: PartialFile,
    num_bytes: int | None,
    progress: Callable[[int, int | None], None],
    max_bytes: int | None,
) -> None:
    """Append what has not arrived yet."""
    with translated_errors(remote.uri):
        source = remote.filesystem.open(remote.path, "rb", block_size=_CHUNK_BYTES, cache_type="none")
    with source, partial.append() as sink:
        source.seek(sink.tell())
        while True:
            with translated_errors(remote.uri):
                chunk = source.read(_CHUNK_BYTES)
            if not chunk:
                break
            sink.write(chunk)
            _check_size(remote, sink.tell(), max_bytes)
            progress(sink.tell(), num_bytes)
        arrived = sink.tell()
    if num_bytes not in {None, arrived}:
        partial.discard()
        raise _Interrupted(f"{redact(remote.uri)}: {arrived} of {num_bytes} bytes arrived")


def _check_size(remote: Remote, num_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and num_bytes > max_bytes:
        raise too_large(remote.uri, num_bytes, max_bytes)


def _find_remote(uri: str, options: Mapping[str, Any]) -> list[SourceFile]:
    remote = open_remote(uri, options)
    filesystem, path = remote.filesystem, remote.path
    with translated_errors(uri):
        filesystem.invalidate_cache()  # it outlives a run: a sweep's next run would see the listing of this one
        if is_glob(path):
            infos = [info for info in filesystem.glob(path, detail=True).values() if info["type"] == "file"]
        else:
            infos = [_info(filesystem, path)]
            if infos[0]["type"] == "directory":
                infos = _files_of_remote_folder(uri, filesystem, path)
    return sorted(map(remote.file, infos), key=lambda file: file.name)


def _files_of_remote_folder(uri: str, filesystem: Any, path: str) -> list[Mapping[str, Any]]:
    listed = filesystem.ls(path, detail=True)
    folders = [info["name"] for info in listed if info["type"] == "directory"]
    data = next((name for name in folders if PurePosixPath(name).name == "data"), None)
    for infos in (listed, filesystem.ls(data, detail=True) if data else []):
        present = [info for info in infos if info["type"] == "file"]
        if files := [info for info in present if is_data(info["name"])]:
            return files
        check_no_arrow(uri, [info["name"] for info in present])
    return []


@dataclass(frozen=True)
class Remote:
    """A uri as fsspec resolves it."""

    uri: str
    filesystem: Any
    path: str

    def info(self) -> Mapping[str, Any]:
        """Return what the server says about the file now."""
        with translated_errors(self.uri):
            self.filesystem.invalidate_cache()
            return _info(self.filesystem, self.path)

    def file(self, info: Mapping[str, Any]) -> SourceFile:
        """Return a file of it. Its name keeps the server, which the names of a filesystem lack."""
        facts = [fact for key in _CONTENT_FACTS if (fact := info.get(key)) is not None]
        facts = [*(facts or [self._digest(str(info["name"]))]), info.get("size")]
        name, uri, path = str(info["name"]), self.uri.rstrip("/"), self.path.rstrip("/")
        server = uri.removesuffix(path)
        if not uri.endswith(path) or "://" not in server:
            server, name = "", str(self.filesystem.unstrip_protocol(name))
        return SourceFile(server + name, "-".join(str(fact) for fact in facts if fact is not None))

    def _digest(self, path: str) -> str:
        """Return the sha256 of a file of which the server tells nothing that changes with its content."""
        digest = hashlib.sha256()
        with translated_errors(self.uri), self.filesystem.open(path, "rb", block_size=_CHUNK_BYTES) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return f"sha256-{digest.hexdigest()}"


def _info(filesystem: Any, path: str) -> Mapping[str, Any]:
    """Return what the server says about a path; of the hub's files with git's name of the content."""
    info: Mapping[str, Any] = filesystem.info(path)
    if scheme(str(filesystem.unstrip_protocol(path))) == "hf" and info["type"] == "file":
        info = filesystem.info(path, expand_info=True)
    return info


def open_remote(uri: str, options: Mapping[str, Any]) -> Remote:
    """Return what fsspec makes of a uri; nothing is asked of a server yet.

    Raises:
        DataError: No such scheme, or the package for it isn't installed.
    """
    import fsspec

    if scheme(uri) not in _SERVERS:
        known = ", ".join(f"{name}://" for name in sorted(_SERVERS - {"memory"}))
        raise DataError(f"{redact(uri)}: {scheme(uri)}:// is not read; there are http://, https://, {known}")
    if scheme(uri) in S3_SCHEMES:
        _check_aws_keys()
    try:
        fsspec.get_filesystem_class(scheme(uri))
    except (ImportError, ValueError) as error:  # they name the package to install, or the scheme
        raise DataError(f"{redact(uri)}: {error}") from error
    own_options = {  # botocore changes what it is given
        key: copy.deepcopy(value) for key, value in options.items() if value is not None
    }
    with translated_errors(uri):
        filesystem, path = fsspec.url_to_fs(uri, **own_options)
        return Remote(uri, filesystem, path)


class _Interrupted(DataError):
    """A failure that may pass."""


@contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Translate whatever a filesystem raises: each package behind fsspec has exceptions of its own.

    Raises:
        DataError: It would fail again.
        _Interrupted: It may pass.
    """
    try:
        yield
    except Exception as error:
        error_type = DataError if isinstance(error, _PERMANENT) else _Interrupted
        raise error_type(f"{redact(uri)}: {_reason(error)}", fix=_fix(uri, error)) from error


def _fix(uri: str, error: Exception) -> str | None:
    if isinstance(error, TypeError | ValueError):
        return "check dataset.storage_options"
    if scheme(uri) not in S3_SCHEMES:
        return None
    if isinstance(error, FileNotFoundError):
        return "check the bucket and the key"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "set AWS_CA_BUNDLE to the certificate of the authority that signed it, if you trust that"
    return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and dataset.storage_options.endpoint_url"


def _check_aws_keys() -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    present = [name for name in names if os.environ.get(name)]
    if len(present) == 1:
        absent = next(name for name in names if name not in present)
        raise DataError(f"{present[0]} is set and {absent} is not", fix="set both, or neither to use the AWS chain")


def _reason(error: Exception) -> str:
    """Return what an operating system or a server says, without secrets."""
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return "no such file"
    return redact(" ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split()))
