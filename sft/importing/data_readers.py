"""How the values are read that say where data is: files, datasets of the hub, splits, raw text, held-out sets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.importing.rows import Found, Kind, Source, Table, missing, other, taken

VALIDATED = "training.validation_sets"
SCORED_TOO = "validated on the way, and scored before and after"
RAW = "raw text, which trains whole and without a chat template; long ones are divided"
UNCUT = "nothing is cut there; here what has training.max_seq_len tokens, 8192 unless it is set, is an error"
SLICED = "eval.holdouts.NAME.split is a whole split; training.validation_split holds a share of the rows out"
_GENERIC = {"json", "csv", "parquet", "text", "arrow"}
"""What datasets calls a kind of file, where `data_files` says which."""
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]{0,31}://")
_FILE = re.compile(r"\.(jsonl?|csv|parquet|txt|zst|gz|xz|bz2)$", re.IGNORECASE)


def data_uri(path: Any, config: Any = None, revision: Any = None) -> str | None:
    """Return where data is as a uri of ours: a file or a folder as it is spelled, else a dataset of the hub.

    A folder that is there goes before a dataset of the hub of that name, as in each of the projects.

    Args:
        path: File, folder, address or name on the hub.
        config: Configuration of a dataset of the hub.
        revision: Branch, tag or commit.
    """
    if not isinstance(path, str) or not path:
        return None
    if _REMOTE.match(path):
        return path
    if path.startswith((".", "/", "~")) or _FILE.search(path) or path.count("/") > 1 or "*" in path or "\\" in path:
        return path
    if "\0" not in path and Path(path).exists():
        return f"./{path}"
    return f"hf://{path}{f':{config}' if config else ''}{f'@{revision}' if revision else ''}"


def place(path: Any, source: Source, config: Any = None, revision: Any = None) -> Found:
    """Read where the rows of an entry are, of which `data_files` may name files.

    Args:
        path: As `data_uri` takes it, or a kind of file.
        source: With the entry.
        config: Configuration of a dataset of the hub.
        revision: Branch, tag or commit.
    """
    ours, files = f"{source.prefix}uri", source.item.get("data_files")
    uri = "" if path in _GENERIC else data_uri(path, config, revision)
    if uri is None:
        return missing(f"{ours} is a text")
    if not files and uri:
        return taken({ours: uri})
    if uri.startswith("hf://"):
        return other({ours: uri}, "the whole dataset: single files of it are not chosen here")
    names = [files] if isinstance(files, str) else files
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        return missing(f"{ours} is a file, a folder or a glob: name the files")
    is_whole = not uri or names[0].startswith("/") or _REMOTE.match(names[0])
    return taken({ours: names[0] if is_whole else f"{uri.rstrip('/')}/{names[0]}"})


def raw_text(place: Any, column: Any, prefix: str = "dataset.") -> Found:
    """Read where raw text is.

    Args:
        place: As `data_uri` returns it.
        column: That holds a document.
        prefix: What our keys of it begin with.
    """
    if place is None or not isinstance(column, str):
        return missing(f"{prefix}uri, with {prefix}format=text")
    settings = {f"{prefix}uri": place, f"{prefix}format": "text", f"{prefix}columns.text": column}
    return other(settings, RAW)


def held_out_sets(value: Any, table: Table, source: Source, *, are_validated: bool) -> Found:
    """Read sets that are scored and not trained, each an entry of a list of datasets, or the only one.

    Args:
        value: The list, or the entry.
        table: Rows of an entry's settings.
        source: The file.
        are_validated: Whether the project measures their loss while it trains.
    """
    entries = value if isinstance(value, list) else [value]
    settings: dict[str, Any] = {}
    left = []
    for number, entry in enumerate(entries, start=1):
        prefix = "eval.holdouts.test." if len(entries) == 1 else f"eval.holdouts.test_{number}."
        if "[" in str(dict(_said(entry)).get("split")):
            return missing(SLICED)
        read = [(key, _entry_read(key, item, table, source.at(entry, prefix))) for key, item in _said(entry)]
        found = {ours: item for _, one in read for ours, item in one.settings.items() if ours.startswith(prefix)}
        if not found.get(f"{prefix}uri"):
            return missing("eval.holdouts.NAME.uri")
        if found.get(f"{prefix}format") == "text":
            return missing("raw text that is held out is not scored; training.validation_split gives a loss on the way")
        settings |= found
        left += [key for key, one in read if one.kind is Kind.ABSENT]
    found_sets = on_the_way(other(settings), are_validated=are_validated)
    return replace(found_sets, note=found_sets.note + (f"; but for {', '.join(left)}" if left else ""))


def on_the_way(found: Found, *, are_validated: bool) -> Found:
    """Return held-out sets as sets that are validated while a model is trained, if they are; and say so.

    Args:
        found: With the settings of sets of `eval.holdouts`.
        are_validated: Whether the project measures their loss while it trains.
    """
    names = dict.fromkeys(key.split(".")[2] for key in found.settings if key.startswith("eval.holdouts."))
    if not are_validated or not names:
        return other(found.settings, "scored before and after the training; not validated on the way, as there")
    note = "scored before and after the training, and validated on the way"
    return other({**found.settings, VALIDATED: [*names]}, note)


def validating(source: Source, found: Found) -> Source:
    """Return the file with the names of the sets that it validates, which other settings need.

    Args:
        source: The file.
        found: What its sets become.
    """
    return replace(source, validated_sets=tuple(found.settings.get(VALIDATED, ())))


def _said(entry: Any) -> list[tuple[str, Any]]:
    return [(key, item) for key, item in entry.items() if item is not None] if isinstance(entry, dict) else []


def _entry_read(key: str, value: Any, table: Table, source: Source) -> Found:
    return table[key].read(value, source) if key in table else missing("not known")


def split_name(value: Any, source: Source) -> Found:
    """Read a split of datasets, of which a slice has no counterpart."""
    name, bracket, part = str(value).partition("[")
    ours = f"{source.prefix}split"
    if not re.fullmatch(r"[\w.-]+", name):
        return missing(f"{ours} is one split's name")
    if bracket:
        return other(
            {ours: name}, f"the whole split: {source.prefix}max_samples takes a seeded number of rows, not [{part}"
        )
    return taken({ours: name})
