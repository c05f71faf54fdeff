"""The tables of `docs/parity.md`: what each setting of other projects is here, made of the tables that import them."""

from __future__ import annotations

from collections.abc import Iterator

from sft.importing.convert import PROJECTS
from sft.importing.rows import Kind, Project, Row

_HEAD = """\
# Settings of other projects

`sft import FILE` makes a recipe of a configuration of axolotl, LLaMA-Factory, torchtune or TRL, and says of each of its
settings whether it was taken, has another meaning here, or is not here:

```sh
sft import llama3_lora_sft.yaml --from llama-factory --output mine.yaml
sft import axolotl.yaml --devices 8     # batch sizes there are of one device
sft plan recipe.yaml
```

YAML, JSON and, of TRL, the flags of `trl sft` in a text file are read. Nothing in the file is run, and no other file is
opened but LLaMA-Factory's `dataset_info.json`. What the project does where its file says nothing is written too, where
it matters for the numbers (AdamW's second beta is 0.999 there, and 0.95 here). A value beyond the bounds of our setting
is named and not taken, and so is a secret. No file is overwritten; where something is left to fill in, the status is 1.

Each table has all settings of supervised fine-tuning that the project had in November 2026, and the keys by which its
examples know older ones. This page is made of the tables that `sft import` reads (`sft/importing/`).
"""
_KINDS = {Kind.TAKEN: "is", Kind.DIFFERS: "differs", Kind.ABSENT: "no"}


def text() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(line for project in PROJECTS for line in _table(project))])


def _table(project: Project) -> Iterator[str]:
    yield f"## {project.title}"
    yield ""
    yield f"| {project.title} | | sft | |"
    yield "|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, row in project.rows.items():
        groups.setdefault((_KINDS[row.kind], row.ours, _note(row)), []).append(key)
    for (kind, ours, note), keys in groups.items():
        names = ", ".join(f"`{key}`" for key in keys)
        settings = ", ".join(f"`{key}`" for key in ours.split(", ")) if ours else ""
        yield f"| {names} | {kind} | {settings} | {note} |"
    yield ""


def _note(row: Row) -> str:
    return row.note.replace("|", "\\|")
