"""Compressed files, read as what they unfold to, as far as that is wanted."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, Any

ENDINGS = (".gz", ".zst")


class UnfoldsTooFarError(Exception):
    """A file has more bytes, decompressed, than was allowed."""


def decompressed(file: IO[bytes], compression: str, max_bytes: int | None = None) -> IO[bytes]:
    """Return a stream of what a file unfolds to.

    Args:
        file: Compressed, or as it is.
        compression: One of `ENDINGS`; empty = none.
        max_bytes: Reading on past this raises `UnfoldsTooFarError`; None = any.
    """
    if not compression:
        return file
    raw: Any = gzip.GzipFile(fileobj=file) if compression == ".gz" else _ZstdStream(file)
    return io.BufferedReader(raw if max_bytes is None else _Bounded(raw, max_bytes), 1 << 20)


class _UndecompressedError(Exception):
    """What pyarrow says of a damaged stream: its own exception is OSError, as if the disk were at fault."""


DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, _UndecompressedError)
"""What reading raises where a file is cut short or was never compressed."""


class _ZstdStream(io.RawIOBase):
    """Decompresses while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow

        self._stream = pyarrow.CompressedInputStream(file, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            content = self._stream.read(len(target))
        except OSError as error:
            if error.errno is not None:
                raise
            raise _UndecompressedError(str(error)) from error
        target[: len(content)] = content
        return len(content)


class _Bounded(io.RawIOBase):
    """Reads a stream up to a place."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = int(self._stream.seek(offset, whence))
        self._check()
        return self._place

    def readinto(self, target: Any) -> int:
        num_bytes = int(self._stream.readinto(target) or 0)
        self._place += num_bytes
        self._check()
        return num_bytes

    def _check(self) -> None:
        if self._place > self._max_bytes:
            raise UnfoldsTooFarError
