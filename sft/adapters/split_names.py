"""Which split of a dataset is read: the one that is asked for, never test data because nobody said otherwise."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sft.errors import DataError

_KEYWORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "heldout": "test",
    "holdout": "test",
    "benchmark": "test",
}
"""Words in names of files and splits: those that the Hugging Face hub knows, and others for what is held out."""

_IN_TWO_WORDS = re.compile(r"h(?:eld|old)[^a-z]out(?![a-z])")

_TRAIN_NAMES = ("train", "train_sft", "train_gen", "training")
EVERY = "all"


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        split: Its name; None if the recipe names none.
        held_out: Whether it is the separate evaluation set.
    """

    split: str | None = None
    held_out: bool = False

    @property
    def key(self) -> str:
        """The setting that says which split is read."""
        return "dataset.eval_split" if self.held_out else "dataset.split"


@dataclass(frozen=True)
class Selection:
    """The files that are read, and the others."""

    chosen: list[str]
    left_out: list[str]


def split_of(name: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` if one of these stands in a name as a word of its own."""
    words = re.split(r"[^a-z]+", _IN_TWO_WORDS.sub("heldout", name.lower()))
    return next((_KEYWORDS[word] for word in words if word in _KEYWORDS), None)


def select_files(where: str, names: Sequence[str], wanted: Wanted) -> Selection:
    """Choose among a folder's files.

    Args:
        where: The folder, for messages.
        names: Its files.
        wanted: What is asked for.

    Raises:
        DataError: There is no file of the split, or it is not clear which files are to be read.
    """
    splits = {name: split_of(label) for name, label in _labels(names).items()}
    present = sorted({split for split in splits.values() if split})
    if wanted.split == EVERY or (wanted.split is None and set(splits.values()) in ({None}, {"train"})):
        return Selection(list(names), [])
    split = _KEYWORDS.get(wanted.split, wanted.split) if wanted.split else _default(where, present, wanted)
    unnamed = [name for name in names if splits[name] is None]
    chosen = [name for name in names if splits[name] == split] or [n for n in unnamed if _stem(n) == wanted.split]
    if not chosen:
        raise DataError(
            f"{where}: no file is of the split {split}; there are {_listed(names)}", fix=_fix(present, wanted)
        )
    if unnamed and wanted.split is None:
        message = f"{where}: is {_listed(unnamed)} {split} data too? Other files are named {', '.join(present)}"
        raise DataError(message, fix=f"{wanted.key}={split} leaves it out, {wanted.key}={EVERY} reads every file")
    return Selection(chosen, [name for name in names if name not in chosen])


def choose_split(where: str, present: Sequence[str], wanted: Wanted) -> str:
    """Choose among the splits of a dataset of the hub.

    Raises:
        DataError: There is no such split, or it is not clear which.
    """
    if wanted.split is not None:
        if wanted.split not in present:
            raise DataError(f"{where} has no split {wanted.split} but {', '.join(present)}", fix=_fix(present, wanted))
        return wanted.split
    if not wanted.held_out:
        for name in _TRAIN_NAMES:
            if name in present:
                return name
    return _only_one(where, list(present), wanted)


def _default(where: str, present: list[str], wanted: Wanted) -> str:
    return "train" if "train" in present and not wanted.held_out else _only_one(where, present, wanted)


def _only_one(where: str, present: list[str], wanted: Wanted) -> str:
    """Return the only split, if it may be used for what is wanted."""
    held_out = [name for name in present if split_of(name) in {"test", "validation"}]
    candidates = (held_out or present) if wanted.held_out else present
    if len(candidates) > 1:
        raise DataError(f"{where} has several splits: {', '.join(present)}", fix=_fix(candidates, wanted))
    if held_out and not wanted.held_out:
        message = f"{where} has only {candidates[0]} data, which is not trained unless it is asked for"
        raise DataError(message, fix=_fix(candidates, wanted))
    return candidates[0]


def _fix(present: Sequence[str], wanted: Wanted) -> str:
    return f"{wanted.key}={present[0] if present else EVERY}"


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Return each file's name, with its folders as far as they tell files apart: ``test/part-0.jsonl``."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    shared = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    return {name: "/".join(PurePosixPath(name).parts[len(shared) :]) for name in names}


def _stem(name: str) -> str:
    return PurePosixPath(name).name.split(".")[0]


def _listed(names: Sequence[str]) -> str:
    bare = [PurePosixPath(name).name for name in names]
    return ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
