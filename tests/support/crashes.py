"""What a disk holds after the power was cut, at each moment of some work that was recorded.

A disk keeps the names that it was told at once or not before the folder is synced, and the bytes of a file only once
the file is: a name may stand for an empty file. Both are tried: every file whose bytes were not synced is emptied, and
then, in a second copy, names are taken away that stand in folders which were not synced since.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Identity = tuple[int, int, int]


@dataclass
class Disk:
    """A folder, of which each sync and each move is recorded.

    Attributes:
        root: The folder.
        copies: Where its states are kept.
        moments: What was about to happen at each state.
    """

    root: Path
    copies: Path
    moments: list[str] = field(default_factory=list)
    _is_copying: bool = False
    _synced: dict[int, Identity] = field(default_factory=dict)
    _names: dict[int, set[str]] = field(default_factory=dict)

    def record(self, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> None:
        """Do some work and keep a copy before each of its steps and after the last."""
        fsync = os.fsync

        def noted_fsync(handle: int) -> None:
            path = Path(f"/dev/fd/{handle}").resolve()
            self._keep(f"sync {path.name}")
            fsync(handle)
            if path.is_dir():
                self._names[path.stat().st_ino] = {entry.name for entry in path.iterdir()}
            self._synced[path.stat().st_ino] = identity(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", noted_fsync)
            for name in ("rename", "replace", "mkdir", "unlink"):
                patch.setattr(os, name, self._noted(name, getattr(os, name)))
            work()
        self._keep("the end")

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(path: Any, *rest: Any, **keys: Any) -> Any:
            self._keep(f"{name} {Path(path).name}")
            return call(path, *rest, **keys)

        return noted

    def _keep(self, moment: str) -> None:
        """Copy the folder as a disk would have it: once with each name, once with those that are sure."""
        if self._is_copying:
            return
        self._is_copying = True
        number = len(self.moments)
        self.moments.append(moment)
        for kind in ("names", "sure"):
            copy = self.copies / f"{number:03} {kind}"
            copy.mkdir(parents=True)
            self._copy(self.root, copy, only_sure=kind == "sure")
        self._is_copying = False

    def _copy(self, source: Path, target: Path, *, only_sure: bool) -> None:
        sure = self._names.get(source.stat().st_ino, set())
        for path in source.iterdir():
            if only_sure and path.name not in sure:
                continue
            if path.is_dir():
                (target / path.name).mkdir()
                self._copy(path, target / path.name, only_sure=only_sure)
            elif self._synced.get(path.stat().st_ino) == identity(path):
                shutil.copy2(path, target / path.name)
            else:
                (target / path.name).touch()

    def states(self) -> Iterator[tuple[str, Path]]:
        """Yield each moment with what a disk may hold then."""
        for copy in sorted(self.copies.iterdir()):
            yield f"{self.moments[int(copy.name[:3])]}, {copy.name[4:]}", copy


def identity(path: Path) -> Identity:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
