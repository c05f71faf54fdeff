"""JSON Lines and arrays of objects: an open file in, its rows out. A file is read as what it is, not as it is named.

A file that is small is looked at as a whole; of a larger one no more than a row is ever in memory.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from sft.adapters import row_batches
from sft.adapters.row_batches import Batch, DamagedFileError, numbered, too_long

_BLOCK_BYTES = 1 << 18
_WHOLE_BYTES = 16 << 20
"""Larger files are not looked at as a whole."""
_PIECE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
"""A text, a bracket, or the quote of a text that is cut short."""
_SCALAR = re.compile(rb"[^ \t\r\n,\]]++")
_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")
_NO_ITEM = (b"", b",", *_CLOSING)


def jsonl(file: IO[bytes]) -> Iterator[Batch]:
    """Yield the rows of a ``.jsonl``; an array is read as one."""
    head = file.readline(row_batches.MAX_ROW_BYTES + 1)
    if not head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _lines(head, file)
        return
    first_line, head = head, head + file.read(_WHOLE_BYTES)
    if len(head) > _WHOLE_BYTES:
        is_row = _is_json(first_line, list)
        yield from _lines(b"", _joined(head, file)) if is_row else numbered(array_items(head, file))
    elif (items := _array(first_line, head)) is not None:
        yield from items
    else:
        yield from _lines(b"", io.BytesIO(head))


def json(file: IO[bytes]) -> Iterator[Batch]:
    """Yield the rows of a ``.json``, which holds an array of them; JSON Lines are read as such.

    Raises:
        msgspec.DecodeError: A small file is no array.
        DamagedFileError: It holds something else.
    """
    head = file.readline(row_batches.MAX_ROW_BYTES + 1)
    is_object = head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
    if is_object and _is_json(head):
        yield from _lines(head, file)
        return
    if is_object and len(head) > row_batches.MAX_ROW_BYTES:
        raise too_long("line 1")
    head += file.read(_WHOLE_BYTES)
    is_whole = len(head) <= _WHOLE_BYTES
    content = head.removeprefix(codecs.BOM_UTF8)
    if not is_object:
        yield from _items(content) if is_whole else numbered(array_items(head, file))
        return
    if is_whole and _is_json(content):
        columns = ", ".join(msgspec.json.decode(content, type=dict[str, msgspec.Raw]))
        raise DamagedFileError(f"holds one JSON object, with {columns}; write its rows as an array or as JSON Lines")
    if not is_whole and not any(_is_json(line) for line in head.splitlines()):
        raise DamagedFileError("begins with one JSON object of many lines; write its rows as an array or as JSON Lines")
    yield from _lines(b"", _joined(head, file))


def array_items(head: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """Yield the JSON of each item of an array as a line, and hold no more than one of them.

    What is in an item is not checked, but where it ends.

    Args:
        head: What was read of the file so far.
        file: Gives the rest.

    Raises:
        DamagedFileError: It is no array, ends within it, or an item is longer than `MAX_ROW_BYTES`.
    """
    array = _Array(head.removeprefix(codecs.BOM_UTF8), file)
    array.take(b"[")
    if array.next_byte() == b"]":
        array.take(b"]")
    else:
        while True:
            yield _line(array.item())
            if array.next_byte() != b",":
                break
            array.take(b",")
        array.take(b"]")
    if more := array.next_byte():
        raise DamagedFileError(f"after the array comes {more!r}")


class _Array:
    """The part of an array that is in memory, and where reading it has come to."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._content = head
        self._file = file
        self._place = 0
        self._num_items = 0

    def next_byte(self) -> bytes:
        """Go past white space and return the byte there; empty at the end of the file."""
        while not (found := _NO_SPACE.search(self._content, self._place)):
            self._place = len(self._content)
            if not self._read():
                return b""
        self._place = found.start()
        return found[0]

    def take(self, byte: bytes) -> None:
        """Go past a byte that must be next."""
        if (found := self.next_byte()) != byte:
            raise self._unexpected(found, byte.decode())
        self._place += 1

    def item(self) -> bytes:
        """Return the JSON of the item that is next, and go past it."""
        first = self.next_byte()
        if first in _NO_ITEM:
            raise self._unexpected(first, "a value")
        self._num_items += 1
        depth, scanned = 0, 0  # bytes of the item of which the depth is known
        while True:
            end, depth, scanned = self._scan(depth, scanned, is_nested=first in _OPENING)
            if (end or len(self._content) - self._place) > row_batches.MAX_ROW_BYTES:
                raise too_long(f"item {self._num_items:,}")
            if end:
                item = self._content[self._place : self._place + end]
                self._place += end
                return item
            if not self._read():
                raise DamagedFileError(f"not valid JSON: it ends within item {self._num_items:,}")

    def _scan(self, depth: int, scanned: int, *, is_nested: bool) -> tuple[int, int, int]:
        """Return how long the item is, 0 if it goes on past what is read; the depth, and how far that is known."""
        begin = self._place
        if not is_nested:
            pattern = _PIECE if self._content.startswith(b'"', begin) else _SCALAR
            plain = pattern.match(self._content, begin)
            is_cut = plain is None or plain[0] == b'"' or plain.end() == len(self._content)
            return 0 if is_cut or plain is None else plain.end() - begin, 0, 0
        for piece in _PIECE.finditer(self._content, begin + scanned):
            if piece[0] == b'"':
                return 0, depth, piece.start() - begin
            depth += (piece[0] in _OPENING) - (piece[0] in _CLOSING)
            if not depth:
                return piece.end() - begin, 0, 0
        return 0, depth, len(self._content) - begin

    def _read(self) -> bool:
        """Drop what is behind, read as much again as is kept, at least a block; return whether there was more."""
        kept = self._content[self._place :]
        block = self._file.read(max(_BLOCK_BYTES, len(kept)))
        self._content, self._place = kept + block, 0
        return bool(block)

    def _unexpected(self, byte: bytes, wanted: str) -> DamagedFileError:
        what = repr(byte.decode(errors="replace")) if byte else "its end"
        return DamagedFileError(f"not valid JSON: after {self._num_items:,} items comes {what}, not {wanted}")


def _array(first_line: bytes, content: bytes) -> Iterator[Batch] | None:
    """Return the rows of an array; None if the first line is a row of its own, which happens to be a list."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return None
    if len(first_line) >= len(content.rstrip()) and not any(bytes(item).startswith(b"{") for item in items):
        return None
    return _one_line_each(items)


def _items(content: bytes) -> Iterator[Batch]:
    return _one_line_each(msgspec.json.decode(content, type=list[msgspec.Raw]))


def _one_line_each(items: list[msgspec.Raw]) -> Iterator[Batch]:
    return numbered(_line(bytes(item)) for item in items)


def _line(item: bytes) -> bytes:
    return item.replace(b"\n", b" ") + b"\n"  # in JSON, a bare line end is white space


def _is_json(content: bytes, kind: type = dict) -> bool:
    try:
        msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=kind)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _lines(first: bytes, file: IO[bytes]) -> Iterator[Batch]:
    """Yield lines as they are; `first` is one that was read already."""
    number = 1
    while block := first + file.read(_BLOCK_BYTES):
        first = b""
        if not block.endswith(b"\n"):
            block += file.readline(row_batches.MAX_ROW_BYTES + 1)
            last = len(block) - block.rfind(b"\n", 0, -1) - 1
            if last > row_batches.MAX_ROW_BYTES:
                num_before = block.count(b"\n", 0, -1)
                raise too_long(f"line {number + num_before}")
            if not block.endswith(b"\n"):
                block += b"\n"
        if number == 1:
            block = block.removeprefix(codecs.BOM_UTF8)
        yield number, block
        number += block.count(b"\n")


def _joined(head: bytes, file: IO[bytes]) -> IO[bytes]:
    """Return a stream of what was read already and the rest of the file."""
    return io.BufferedReader(_Joined(head, file), _BLOCK_BYTES)


class _Joined(io.RawIOBase):
    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head = io.BytesIO(head)
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        content = self._head.read(len(target)) or self._file.read(len(target))
        target[: len(content)] = content
        return len(content)
