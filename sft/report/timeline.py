"""When each step of a run was at work, and what was there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sft.record import StepRecord
from sft.report.comparison.text import time_text
from sft.report.page import bars, details, section, table
from sft.report.run_view import RunView

_HEAD = ("step", "status", "began", "time")


def time_line(view: RunView) -> str:
    """Return the section on a run's time.

    Args:
        view: The run.
    """
    begin = _seconds(view.record.started_at)
    spans = dict(_spans(view, begin))
    end = max([1.0, *(start + length for start, length in spans.values())])
    rows = []
    for step in view.record.steps:
        bar = ""
        if span := spans.get(step.name):
            kind = "failed" if step.status in ("failed", "interrupted") else "ran"
            place = f"left:{100 * span[0] / end:.2f}%;width:{100 * span[1] / end:.2f}%"
            bar = f'<i class="{kind}" style="{place}"></i>'
        elif step.reused:
            bar = '<i class="cached" style="left:0;width:100%"></i>'
        rows.append((step.name, bar, _told(step, spans.get(step.name))))
    facts = details("times", "The times as a table", table(_HEAD, (_cells(step) for step in view.record.steps)))
    return section("Time line", bars(rows) + facts, "Hatched: done before, and taken from the store.")


def _spans(view: RunView, begin: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield of each step that this run did when it began and how long it took, in seconds."""
    for step in view.record.steps:
        if step.reused or not step.started_at or step.status == "pending":
            continue
        start = max(0.0, _seconds(step.started_at) - begin)
        if step.seconds is not None:
            yield step.name, (start, step.seconds)
            continue
        ended = view.record.ended_at
        now = _seconds(ended) if ended else datetime.now(UTC).timestamp() if view.is_at_work else None
        yield step.name, (start, max(0.0, now - begin - start) if now is not None else 0.0)


def _told(step: StepRecord, span: tuple[float, float] | None) -> str:
    if step.reused:
        return f"done before, in {time_text(step.seconds)}"
    if step.status == "pending":
        return "not begun"
    took = time_text(span[1]) if span else ""
    return took if step.status == "done" else f"{step.status}, {took}"


def _cells(step: StepRecord) -> Sequence[str]:
    status = "done before" if step.reused else step.status
    return step.name, status, step.started_at or "", time_text(step.seconds)


def _seconds(text: str) -> float:
    """Return a time of a record in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
