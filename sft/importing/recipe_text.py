"""The text of a recipe that `sft import` writes, in which each setting says whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sft.config.json_schema import SCHEMA_FILE
from sft.config.strict_yaml import written
from sft.importing.convert import Imported, Told
from sft.importing.rows import Kind
from sft.importing.values import MISSING, one_line, shown

TITLES = {
    Kind.TAKEN: "taken as it is",
    Kind.DIFFERS: "has another meaning here",
    Kind.ABSENT: "is not here",
}
_GROUPS = ("dataset", "model", "training", "eval", "registry")


def text_of(imported: Imported, file: str) -> str:
    """Return the recipe.

    Args:
        imported: What was read.
        file: Name of what was read.
    """
    lines = [
        f"# What {one_line(file)} trains, a configuration of {imported.project.title}, by `sft import`.",
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "defaults:",
        "  - config",
        *_group(imported),
        "  - _self_",
    ]
    settings, comments = dict(imported.settings), {key: _comment(imported, key) for key in imported.settings}
    if not any(key.startswith("dataset.eval_") for key in settings):
        settings |= {"dataset.train_split": 1.0, "eval.holdout.enabled": False}
        comments["dataset.train_split"] = (
            "every row trains, one that is there twice once; 0.9 holds a tenth out, for scores before and after"
        )
        comments["eval.holdout.enabled"] = "true with a train_split below 1"
    tree: dict[str, Any] = {}
    for key in sorted(settings, key=lambda key: (_GROUPS.index(key.partition(".")[0]), key.count(".") > 1)):
        *groups, last = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = (settings[key], comments[key])
    for group in _GROUPS:
        if group in tree:
            lines += ["", *_lines(group, tree[group], 0)]
    for kind in (Kind.DIFFERS, Kind.ABSENT):
        if found := [told for told in imported.of(kind) if kind is Kind.ABSENT or not told.found.settings]:
            lines += ["", f"# {TITLES[kind].capitalize()}:", *(f"#   {line_of(told)}" for told in found)]
    if found := [told for told in imported.defaults if not told.found.settings]:
        title = f"Not said there, and by {imported.project.title}'s default not as here"
        lines += ["", f"# {title}:", *(f"#   {line_of(told)}" for told in found)]
    return "\n".join(lines) + "\n"


def line_of(told: Told) -> str:
    """Return what became of one setting, in a line."""
    said = f"{one_line(told.key)}: {shown(told.key, told.value)}"
    ours = ", ".join(f"{key}: {shown(key, value)}" for key, value in told.found.settings.items())
    parts = [part for part in (ours, one_line(told.found.note, 1_000)) if part]
    return f"{said}  ->  {'; '.join(parts)}" if parts else said


def _group(imported: Imported) -> list[str]:
    uri = str(imported.settings.get("dataset.uri", ""))
    kind = (
        {"hf": "hub", "s3": "s3", "http": "http", "https": "http"}.get(uri.partition("://")[0])
        if "://" in uri
        else None
    )
    return [f"  - override /dataset: {kind}"] if kind else []


def _comment(imported: Imported, key: str) -> str:
    if imported.settings[key] == MISSING:
        return "fill it in"
    of = {told.key: told for told in imported.told}
    notes = []
    for whence in imported.whence[key]:
        told = of[whence]
        said = f"{one_line(told.key)}: {shown(told.key, told.value)}"
        notes.append(f"{said} ({imported.project.title}'s default)" if told.by_default else said)
        if told.found.kind is Kind.DIFFERS and told.found.note:
            notes.append(one_line(told.found.note, 1_000))
    return "; ".join(dict.fromkeys(notes))


def _lines(name: str, value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        yield f"{pad}{name}:"
        for key, item in value.items():
            yield from _lines(key, item, depth + 1)
        return
    content, comment = value
    yield f"{pad}{name}: {written(content)}" + (f"  # {comment}" if comment else "")
