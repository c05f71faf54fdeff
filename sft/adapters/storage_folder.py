"""Owns a folder in storage that is written as well as read: the files of this machine, S3, and what else fsspec writes.

Credentials and endpoint come from the environment (``AWS_…``), as each of fsspec's packages reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.adapters import local_files, storage
from sft.errors import DataError

_LARGEST_NOTE = 64 << 20
_OPTIONS = {"skip_instance_cache": True}  # credentials may have been renewed since
_S3_OPTIONS = {**_OPTIONS, "config_kwargs": {"request_checksum_calculation": "when_required"}}
"""botocore sends its checksums as trailers, which many servers don't know; what arrives is compared with a sha256."""


class StorageFolder:
    """A folder behind an address; paths in it are relative, with ``/``.

    Args:
        uri: A path, ``file://``, ``pvc://``, or a scheme that `sft.adapters.storage` knows.

    Raises:
        DataError: As every method does, if it can't be reached, or refuses.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        if local_files.is_local(uri):
            import fsspec

            self._filesystem: Any = fsspec.filesystem("file", auto_mkdir=True)
            self._root = str(local_files.local_path(self.uri).absolute())
        else:
            is_s3 = local_files.scheme(uri) in storage.S3_SCHEMES
            remote = storage.open_remote(self.uri, _S3_OPTIONS if is_s3 else _OPTIONS)
            self._filesystem, self._root = remote.filesystem, remote.path.rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        """Return the names of what lies directly in a folder of it; none if there is no such folder."""
        path = self._path(folder)
        with storage.translated_errors(self.uri):
            self._filesystem.invalidate_cache()
            try:
                listed = self._filesystem.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({name.rstrip("/").rpartition("/")[2] for name in listed} - {""})

    def read(self, path: str) -> bytes:
        """Return a small file.

        Raises:
            DataError: There is none, or it is larger than any such file.
        """
        with storage.translated_errors(self.uri), self._filesystem.open(self._path(path), "rb") as file:
            content: bytes = file.read(_LARGEST_NOTE + 1)
        if len(content) > _LARGEST_NOTE:
            raise DataError(f"{self.uri}/{path}: is larger than {_LARGEST_NOTE} bytes")
        return content

    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine."""
        with storage.translated_errors(self.uri):
            self._filesystem.get_file(self._path(path), str(target))

    def upload(self, source: Path, path: str) -> None:
        """Copy a file of this machine, in place of one that is there."""
        with storage.translated_errors(self.uri):
            self._filesystem.put_file(str(source), self._path(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing if it isn't there."""
        with storage.translated_errors(self.uri):
            self._filesystem.invalidate_cache()
            if self._filesystem.exists(self._path(path)):
                self._filesystem.rm(self._path(path), recursive=True)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root
