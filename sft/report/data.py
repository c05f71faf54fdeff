"""The report on a dataset: where every row went, what conversations look like, what their tokens cost."""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sft.artifacts import DatasetArtifact, TokenizedArtifact
from sft.chat.rejected import Rejections, read_rejected
from sft.chat.sample import LEFT_OUT_BY_CHOICE, RULES
from sft.files import json_text
from sft.report import preview
from sft.report.page import as_page, bars
from sft.report.page import section as page_section
from sft.report.page import table as page_table
from sft.stages.dataset import source_lines
from sft.stages.decontaminate import Contamination
from sft.stages.preview import TokenizedSample

TRAINING_SPLIT = "training split"
"""Where a row lies that the tokenizer refuses: its line there, for its own file is another."""
_BAR = 40


class Tokens(msgspec.Struct, kw_only=True):
    """What a model's tokenizer makes of the training split.

    Attributes:
        loss_share: Share of tokens that the loss counts.
        histogram: Samples by length; each key is the bin's upper bound, a power of two.
        padding_share: Share of what is computed that is padding, at the recipe's batch and token budget.
    """

    num_tokens: int
    loss_share: float
    longest: int
    histogram: dict[int, int]
    padding_share: float


class DataReport(msgspec.Struct, kw_only=True):
    """What ``sft data check`` found.

    Attributes:
        rows: Where every row went; the parts add up to ``rows["all"]``.
        notes: What a run says of the rows: fields and files that aren't read.
        unread_fields: How many rows have each field that isn't read.
        rules: Rejected rows by rule.
        rejected: The first of them.
        roles: Turns by role, in the training split.
        turns: Conversations by their number of turns.
        shared: Training samples that share text with the held-out split or a task, by its name.
        shared_examples: The first of them, with what they share.
        first_samples: The first samples as the model sees them.
        sources: Where the rows of each named source went.
        mix: How many samples each has to train on, and how many are in an epoch, copies counted.
    """

    source: str
    format: str
    rows: dict[str, int]
    notes: list[str]
    unread_fields: dict[str, int]
    rules: dict[str, int]
    rejected: list[str]
    roles: dict[str, int]
    turns: dict[int, int]
    tokens: Tokens | None = None
    shared: dict[str, int] = {}
    shared_examples: list[str] = []
    first_samples: list[TokenizedSample] = []
    sources: dict[str, dict[str, int]] = {}
    mix: dict[str, dict[str, int]] = {}

    @property
    def num_invalid(self) -> int:
        """Rejected rows that a run would stop at."""
        return sum(count for rule, count in self.rules.items() if rule not in LEFT_OUT_BY_CHOICE)


def measure(
    data: DatasetArtifact,
    tokens: TokenizedArtifact | None,
    padding: float | None,
    contamination: Contamination | None = None,
    first_samples: Sequence[TokenizedSample] = (),
    notes: Sequence[str] = (),
    mix: Mapping[str, dict[str, int]] | None = None,
) -> DataReport:
    """Read what the stages wrote, a line at a time.

    Args:
        data: The checked dataset.
        tokens: Its tokens, if a model was given.
        padding: Share of padding in what a training computes, if a model was given.
        contamination: Training samples that share text with what a model is scored on; None = nobody looked.
        first_samples: The first samples as the model sees them, if a model was given.
        notes: What the tokenize stage said of the samples.
        mix: Samples of each named source, and how many of them train.
    """
    roles: Counter[str] = Counter()
    turns: Counter[int] = Counter()
    for sample in _lines(data.train_file):
        turns[len(sample["messages"])] += 1
        roles.update(message["role"] for message in sample["messages"])
    rejections = Rejections()
    for row in read_rejected(data.root / "rejected.jsonl"):
        rejections.add(row)
    for row in read_rejected(tokens.rejected_file) if tokens else ():
        split = "held-out split" if row.is_held_out else TRAINING_SPLIT
        rejections.add(msgspec.structs.replace(row, file=split))
    not_trained = tokens.num_rejected if tokens else 0
    not_scored = tokens.num_eval_rejected if tokens else 0
    return DataReport(
        source=data.source,
        format=data.row_format,
        rows={
            "all": data.num_rows,
            "train": data.num_train - not_trained,
            "held out": data.num_eval - not_scored,
            "rejected": data.num_rejected + not_trained + not_scored,
            "duplicates": data.num_duplicates,
            "held out already": data.num_overlap,
            "unused": data.num_unused,
            "contaminated": data.num_contaminated,
        },
        notes=[*data.notes, *notes],
        unread_fields=data.unread_fields,
        rules=dict(rejections.by_rule.most_common()),
        rejected=[str(row) for row in rejections.first],
        roles=dict(roles.most_common()),
        turns=dict(sorted(turns.items())),
        tokens=_tokens(tokens, padding) if tokens and padding is not None else None,
        shared=dict(contamination.by_evaluation.most_common()) if contamination else {},
        shared_examples=list(itertools.chain(*contamination.examples.values())) if contamination else [],
        first_samples=list(first_samples),
        sources=data.sources,
        mix=dict(mix or {}),
    )


def _tokens(tokens: TokenizedArtifact, padding: float) -> Tokens:
    histogram: Counter[int] = Counter()
    for row in _lines(tokens.data_file):
        histogram[1 << (row["len"] - 1).bit_length()] += 1
    return Tokens(
        num_tokens=tokens.num_tokens,
        loss_share=tokens.num_loss_tokens / tokens.num_tokens,
        longest=tokens.longest_tokens,
        histogram=dict(sorted(histogram.items())),
        padding_share=padding,
    )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        yield from map(msgspec.json.decode, lines)


def as_text(report: DataReport) -> str:
    """Return the report for a terminal."""
    parts = [f"{report.source}: {report.rows['all']:,} rows, format {report.format}"]
    parts += [f"  {name:<18}{count:>12,}" for name, count in report.rows.items() if count and name != "all"]
    parts += [f"  {line}" for line in source_lines(report.sources)]
    parts += [f"  {line}" for line in _mix_lines(report.mix)]
    parts += [f"  {note}" for note in report.notes]
    if report.rules:
        parts.append("rejected by rule")
        parts += [f"  {rule:<22}{count:>8,}  {RULES[rule]}" for rule, count in report.rules.items()]
        parts += ["the first of them", *(f"  {row}" for row in report.rejected)]
    if report.shared:
        parts.append(
            "training samples that share text with what a model is scored on (dataset.decontaminate drops them)"
        )
        parts += [f"  {name:<22}{count:>8,}" for name, count in report.shared.items()]
        parts += [f"  {example}" for example in report.shared_examples]
    parts.append("turns by role: " + ", ".join(f"{role} {count:,}" for role, count in report.roles.items()))
    parts.append("conversations by turns: " + ", ".join(f"{n}: {count:,}" for n, count in report.turns.items()))
    if tokens := report.tokens:
        parts.append(
            f"{tokens.num_tokens:,} tokens, {tokens.loss_share:.1%} for the loss; longest sample {tokens.longest:,}; "
            f"{tokens.padding_share:.1%} of the computed ones are padding"
        )
        most = max(tokens.histogram.values())
        for bound, count in tokens.histogram.items():
            parts.append(f"  up to {bound:>7,} {'█' * max(1, round(_BAR * count / most))} {count:,}")
    return "\n".join(parts)


def _mix_lines(mix: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield how often the samples of each source are in an epoch of the training."""
    total = sum(source["used"] for source in mix.values())
    for name, source in mix.items():
        times = source["used"] / source["samples"] if source["samples"] else 0
        share = f"{source['used'] / total:.1%} of {total:,}" if total else "none"
        yield f"{name}: trains {source['used']:,} samples ({share}; x {times:.3g})"


def as_json(report: DataReport) -> str:
    """Return the report for machines."""
    return json_text(msgspec.to_builtins(report, str_keys=True))


def as_html(report: DataReport) -> str:
    """Return the report as one page that needs nothing else."""
    parts = [_table("Rows", report.rows)]
    if report.sources:
        parts.append(_list("Rows by source", [*source_lines(report.sources), *_mix_lines(report.mix)]))
    if report.rules:
        rules = {f"{rule}: {RULES[rule]}": count for rule, count in report.rules.items()}
        parts += [_table("Rejected by rule", rules), _list("The first of them", report.rejected)]
    if report.notes:
        parts.append(_list("Notes", report.notes))
    parts += [_table("Turns by role", report.roles), _bars("Conversations by turns", report.turns)]
    if report.shared:
        parts.append(_table("Training samples that share text with what a model is scored on", report.shared))
        parts.append(_list("Examples of shared text", report.shared_examples))
    if tokens := report.tokens:
        facts = {
            "tokens": f"{tokens.num_tokens:,}",
            "for the loss": f"{tokens.loss_share:.1%}",
            "longest sample": f"{tokens.longest:,}",
            "padding": f"{tokens.padding_share:.1%}",
        }
        parts += [_table("Tokens", facts), _bars("Samples by tokens, up to", tokens.histogram)]
    if report.first_samples:
        text = "The first samples as the model sees them; what counts for the loss is coloured."
        parts.append(page_section("Samples", preview.section(report.first_samples), text))
    title = f"{report.source}: {report.rows['all']:,} rows, format {report.format}"
    return as_page(title, "\n".join(parts))


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = ((name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in rows.items())
    return page_section(title, page_table((), cells))


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in lines)
    return page_section(title, f"<ol>{items}</ol>")


def _bars(title: str, counts: Mapping[int, int]) -> str:
    most = max(counts.values(), default=1)
    rows = (
        (f"{n:,}", f'<i style="left:0;width:{100 * num / most:.2f}%"></i>', f"{num:,}") for n, num in counts.items()
    )
    return page_section(title, bars(rows))
