"""An installed package that offers callbacks, made in a folder: what Python's metadata finds on its path."""

from __future__ import annotations

from pathlib import Path

import pytest

_CODE = """
import json, pathlib

FOLDER = pathlib.Path(__file__).parent


class Recorder:
    def _note(self, *told):
        with (FOLDER / "told.jsonl").open("a") as file:
            file.write(json.dumps(told) + "\\n")

    def on_step(self, row):
        self._note("step", row["step"])
        if (FOLDER / "fails_at").exists() and int((FOLDER / "fails_at").read_text()) == row["step"]:
            raise ValueError("no connection")
        row.clear()  # a copy: nobody else sees it

    def on_epoch(self, epoch, row):
        self._note("epoch", epoch, row["step"])

    def on_end(self, facts):
        self._note("end", facts["step"])


class Ends:
    def on_end(self, facts):
        pass


class Nothing:
    pass


class Quits:
    def on_end(self, facts):
        raise SystemExit(0)


class Awaited:
    async def on_step(self, row):
        pass


def leaves():
    raise SystemExit(0)


def broken():
    raise RuntimeError("no key")
"""
_ENTRIES = """[sft.callbacks]
recorder = acme_callbacks:Recorder
ends = acme_callbacks:Ends
nothing = acme_callbacks:Nothing
broken = acme_callbacks:broken
quits = acme_callbacks:Quits
awaited = acme_callbacks:Awaited
leaves = acme_callbacks:leaves
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package with callbacks on Python's path, and return the folder where `recorder` notes what it is told.

    Args:
        folder: Where it goes.
        monkeypatch: Takes it from the path again.
    """
    facts = folder / "acme_sft-1.2.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sft\nVersion: 1.2\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(_ENTRIES, encoding="utf-8")
    (folder / "acme_callbacks.py").write_text(_CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "acme_callbacks", raising=False)
    return folder
