"""The samples that changed most, base beside tuned with the reference, as a section of a run's page."""

from __future__ import annotations

import html
from pathlib import Path

import msgspec

from sft.artifacts import ModelComparison
from sft.files import path_from_here
from sft.report import page
from sft.scores import format_difference, format_score
from sft.stages.changed_samples import ChangedSample

_NUM_OPEN = 3
_SHOWN_CHARACTERS = 1500
"""The end of a longer prompt, and the beginning of a longer answer; ``samples_changed.jsonl`` has all."""


def section(comparison: ModelComparison | None) -> str:
    """Return the section on the samples that changed most; nothing without a comparison.

    Args:
        comparison: Of the base model and the tuned one.
    """
    content = _samples(comparison.samples_file) if comparison else ""
    return page.section("Samples that changed most", content, "Base model beside tuned model, and the right answer.")


def _samples(file: Path) -> str:
    try:
        samples = [msgspec.json.decode(line, type=ChangedSample) for line in file.read_bytes().splitlines()]
    except FileNotFoundError:
        return "<p>They are no longer in the store.</p>"
    if not samples:
        return "<p>No logged sample changed.</p>"
    place = html.escape(str(path_from_here(file)))
    first, *rest = (_sample(*numbered) for numbered in enumerate(samples))
    first += "".join(rest[: _NUM_OPEN - 1])
    others = "".join(rest[_NUM_OPEN - 1 :])
    more = f'<details id="changed" class="long"><summary>{len(samples) - _NUM_OPEN} more</summary>{others}</details>'
    return f"<p>In full: <code>{place}</code></p>{first}{more if others else ''}"


def _sample(number: int, sample: ChangedSample) -> str:
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
    cells = "".join(f'<h3>{name}</h3><pre class="block">{html.escape(text)}</pre>' for name, text in rows)
    head = html.escape(f"{sample.task}, sample {sample.sample}{turn}: {values}")
    is_open = " open" if number < _NUM_OPEN else ""
    return f'<details id="changed-{number}"{is_open}><summary>{head}</summary>{cells}</details>'


def _end(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"… {text[-_SHOWN_CHARACTERS:]}"


def _beginning(text: str | None) -> str:
    if text is None:
        return "(nothing was written)"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} …"
