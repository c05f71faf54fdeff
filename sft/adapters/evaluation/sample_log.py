"""Owns a log of finished samples: one JSON object per line, so that a killed attempt resumes after the last line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


class SampleLog:
    """Lines in the order in which they were added; a torn line at the end is removed, and its sample is done again.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self._file: BinaryIO = file.open("a+b")
        self._places: dict[int, int] = {}
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._places[json.loads(line)["sample"]] = end
            end += len(line)
        self._file.truncate(end)

    def __contains__(self, sample: int) -> bool:
        return sample in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the row of `row["sample"]`."""
        self._file.seek(0, 2)
        self._places[row["sample"]] = self._file.tell()
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def in_order(self) -> Iterator[dict[str, Any]]:
        """Return every row, sorted by sample."""
        for _, place in sorted(self._places.items()):
            self._file.seek(place)
            yield json.loads(self._file.readline())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
