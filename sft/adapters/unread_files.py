"""Which files of a folder are not read and may hold rows: a person is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from sft.adapters import local_files, storage
from sft.adapters.local_files import SourceFile, is_data, is_glob, is_local, may_hold_rows


def unread(uri: str, options: Mapping[str, Any], files: Iterable[SourceFile]) -> list[str]:
    """Return what lies in a folder besides `files` and may hold rows, by its name in there; none of a file or glob.

    Of a folder of this machine all folders in it are looked at, of one on a server the nearest.

    Args:
        uri: See `sft.adapters.storage.find`.
        options: Passed to fsspec unchanged.
        files: What that returned: of the folder itself, or, if that has none, of its ``data``.
    """
    held = [name for name in _names(uri, options) if may_hold_rows(name)]
    place = "" if any(is_data(name) and "/" not in name for name in held) else "data/"
    read = {place + PurePosixPath(file.name).name for file in files}
    return sorted(name for name in held if name not in read)


def _names(uri: str, options: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of all files in a folder, relative to it."""
    if is_local(uri):
        folder = local_files.local_path(uri)
        return local_files.names_below(folder) if folder.is_dir() else []
    remote = storage.open_remote(uri, options)
    path, filesystem = remote.path.rstrip("/"), remote.filesystem
    with storage.translated_errors(uri):
        if is_glob(path) or not filesystem.isdir(path):
            return []
        return [name.removeprefix(path).lstrip("/") for name in filesystem.find(path, maxdepth=2)]
