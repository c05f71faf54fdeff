"""Owns files of rows on this machine or on a mounted volume: finds them, opens them, and says when they have changed.

Does not own what is in the files (`sft.adapters.readers`).
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from sft.adapters.readers import supported
from sft.errors import DataError
from sft.files import local_path as local_path
from sft.files import scheme as scheme
from sft.redaction import redact

STILL_WRITTEN = "wait until nothing writes it any more, then repeat the command"
_LOCAL_SCHEMES = {"", "file", "pvc"}
_GLOB = re.compile(r"[*?\[]")
_OTHER_ROWS = {
    *(".ndjson", ".jsonlines", ".jl", ".tsv", ".txt", ".arrow", ".feather", ".orc", ".avro", ".xlsx", ".xls", ".pkl"),
    *(".pickle", ".msgpack", ".tfrecord", ".sqlite", ".gz", ".zst", ".xz", ".bz2", ".lz4", ".zip", ".tar", ".tgz"),
}
"""Endings of files that may hold rows and can't be read."""
_FOR_PEOPLE = ("readme", "license", "notice", "citation", "changelog")
_ABOUT_A_DATASET = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: Path or uri, for messages and for the kind of file.
        version: Changes when the content may have changed: size and times, or the server's ETag.
    """

    name: str
    version: str

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Return a file of this machine as it is now."""
        return cls(str(path), stat_version(path))


def is_local(uri: str) -> bool:
    """Return whether a uri is a path on this machine or on a mounted volume."""
    return scheme(uri) in _LOCAL_SCHEMES


def is_glob(path: str | Path) -> bool:
    """Return whether a path is a pattern of files."""
    return bool(_GLOB.search(str(path)))


def stat_version(path: Path) -> str:
    """Return what changes if a local file may have changed: inode, size, times."""
    status = path.stat()
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def find(uri: str, *, follow_links: bool = False) -> list[SourceFile]:
    """Return the files behind a local uri of a file, folder or glob, sorted by name; none where a folder has none.

    Args:
        uri: Of a file, folder or glob.
        follow_links: Whether a file of a folder or glob may be a link to one outside of it.

    Raises:
        DataError: There is no such file, it can't be read, it never ends, or it is a link out of its folder.
    """
    path = local_path(uri)
    try:
        if path.is_dir():
            files = _files_of_folder(path)
        elif path.exists() or not is_glob(path):
            files = [path]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            files = [file for file in map(Path, names) if file.is_file() and file.name not in _ABOUT_A_DATASET]
        for file in files:
            _check_name(str(file))
            _check_kind(file)
            if file != path and not follow_links:
                _check_link(file)
        return [SourceFile.of(file) for file in sorted(files)]
    except OSError as error:
        fix = _near(path) or (f"relative paths start at {Path.cwd()}" if not path.is_absolute() else None)
        raise DataError(f"dataset.uri={path}: {error.strerror or error}", fix=fix) from error


def _near(path: Path) -> str | None:
    """Return ``did you mean …?`` for the file beside it whose name is nearest; None if it is there, or none is near."""
    try:
        names = [] if path.exists() else [other.name for other in path.parent.iterdir()]
    except OSError:  # what keeps the file from being read keeps its neighbours, too
        return None
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"did you mean {path.parent / close[0]}?" if close else None


def _check_name(name: str) -> None:
    """Raise `DataError` if a file's name is not UTF-8: no record could hold it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name!r}: the file's name is not UTF-8", fix="rename it") from error


def _check_kind(file: Path) -> None:
    mode = file.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe gives its rows once, and they are read twice
        raise DataError(f"{file}: is a pipe, a device or a socket, not a file", fix="copy what it gives into a file")


def _check_link(file: Path) -> None:
    """Raise `DataError` if a file that nobody named is a link out of its folder: it may lead to anything here."""
    target = file.resolve()
    if not target.is_relative_to(file.parent.resolve()):
        fix = "dataset.follow_links=true if you know who made the link, or copy the file"
        raise DataError(f"{file}: is a link out of its folder, to {target}", fix=fix)


def _files_of_folder(folder: Path) -> list[Path]:
    """Return a folder's files of rows, or those of its ``data`` folder, where the hub's datasets have them."""
    for place in (folder, folder / "data"):
        present = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
        if files := [path for path in present if is_data(path.name)]:
            return files
        check_no_arrow(str(folder), [path.name for path in present])
    below = sorted({str(path.parent) for path in folder.glob("*/*") if path.is_file() and is_data(path.name)})
    if below:
        raise DataError(f"dataset.uri={folder}: only its folders hold files of rows", fix=f"dataset.uri={below[0]}")
    return []


def is_data(name: str) -> bool:
    """Return whether a file of a folder holds rows: hidden files and what `datasets` writes about a dataset do not."""
    base = PurePosixPath(name).name
    return supported(base) and not base.startswith((".", "__")) and base not in _ABOUT_A_DATASET


def may_hold_rows(name: str) -> bool:
    """Return whether a person may take a file of a folder for rows, by its name in there; no hidden file."""
    path = PurePosixPath(name)
    if any(part.startswith((".", "__")) for part in path.parts):
        return False
    is_about = path.name.lower().startswith(_FOR_PEOPLE)
    return is_data(name) or (path.suffix.lower() in _OTHER_ROWS and not is_about)


def names_below(folder: Path) -> Iterator[str]:
    """Yield each file's name relative to a folder, those of its folders included; hidden folders and links are not."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in sorted(files))


def check_no_arrow(uri: str, names: Iterable[str]) -> None:
    """Raise `DataError` if a folder is what `datasets` writes with ``save_to_disk``."""
    if any(name.endswith(".arrow") for name in names):
        message = f"{redact(uri)}: holds .arrow files, as Dataset.save_to_disk writes them"
        raise DataError(message, fix="write the dataset with Dataset.to_json or to_parquet")


@contextmanager
def opened(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open a local file for reading.

    Raises:
        DataError: It can't be opened or read, or was replaced or rewritten while the block ran.
    """
    try:
        with Path(file.name).open("rb", buffering=1 << 20) as stream:
            yield stream
        if stat_version(Path(file.name)) != file.version:
            raise DataError(f"{file.name}: changed while it was read", fix=STILL_WRITTEN)
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror or error}") from error
