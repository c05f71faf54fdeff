"""The samples that changed most, base beside tuned with the reference, as a section of a run's page."""

from __future__ import annotations

import html
from pathlib import Path

import msgspec

from sft.scores import format_difference, format_score
from sft.stages.changed_samples import ChangedSample

_SHOWN_CHARACTERS = 1500
"""The end of a longer prompt, and the beginning of a longer answer; ``samples_changed.jsonl`` has all."""


def section(file: Path) -> str:
    """Return the section of a comparison's ``samples_changed.jsonl``."""
    samples = [msgspec.json.decode(line, type=ChangedSample) for line in file.read_bytes().splitlines()]
    title = "<h2>Samples that changed most</h2>"
    if not samples:
        return f"{title}<p>No logged sample changed.</p>"
    place = html.escape(str(file))
    return f"{title}<p>In full: <code>{place}</code></p>" + "".join(map(_sample, samples))


def _sample(sample: ChangedSample) -> str:
    turn = "" if sample.turn is None else f", turn {sample.turn + 1}"
    values = "; ".join(
        f"{name} {format_score(before)} → {format_score(after)} ({format_difference(after - before)})"
        for name, (before, after) in sample.scores.items()
    )
    rows = (
        ("prompt", _end(sample.prompt)),
        ("reference", _beginning(sample.reference)),
        ("base", _beginning(sample.base)),
        ("tuned", _beginning(sample.tuned)),
    )
    cells = "".join(f"<tr><th>{name}</th><td><pre>{html.escape(text)}</pre></td></tr>" for name, text in rows)
    head = html.escape(f"{sample.task}, sample {sample.sample}{turn}: {values}")
    return f"<details open><summary>{head}</summary><table>{cells}</table></details>"


def _end(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"… {text[-_SHOWN_CHARACTERS:]}"


def _beginning(text: str | None) -> str:
    if text is None:
        return "(nothing was written)"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} …"
