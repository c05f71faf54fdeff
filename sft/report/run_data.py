"""The data of a run on its page: where the rows went, how long samples are, and some as the model sees them."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

import msgspec

from sft.artifacts import DatasetArtifact, TokenizedArtifact
from sft.report import preview
from sft.report.page import bars, details, section, table
from sft.report.run_view import RunView
from sft.stages.dataset import source_lines
from sft.stages.preview import shown_samples

_READ_BYTES = 64 << 20
"""Of the tokens, to count how long samples are: a page is made in a moment, however large the data is."""


class _Length(msgspec.Struct):
    len: int


def sections(view: RunView) -> str:
    """Return the sections on a run's data, as far as it has read and tokenised them.

    Args:
        view: The run.
    """
    rows, tokens = view.made("dataset", DatasetArtifact), view.made("tokenize", TokenizedArtifact)
    parts = []
    if rows is not None:
        lines = [*rows.notes, *source_lines(rows.sources), *(tokens.mix_lines if tokens else ())]
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        content = table(("rows", "number"), _rows(rows, tokens)) + (f"<ul>{listed}</ul>" if lines else "")
        parts.append(section("Data", content, f"{rows.source}, format {rows.row_format}"))
    if tokens is not None and tokens.num_samples:
        parts.append(section("How long samples are", _lengths(tokens.data_file), _in_tokens(tokens)))
        if samples := shown_samples(tokens):
            text = "The first samples as the model sees them; what counts for the loss is coloured."
            parts.append(section("What it learned from", preview.section(samples), text))
    return "".join(parts)


def _rows(rows: DatasetArtifact, tokens: TokenizedArtifact | None) -> list[tuple[str, str]]:
    counts = {
        "read": rows.num_rows,
        "to train on": rows.num_train - (tokens.num_rejected if tokens else 0),
        "held out": rows.num_eval - (tokens.num_eval_rejected if tokens else 0),
        "rejected": rows.num_rejected + (tokens.num_rejected + tokens.num_eval_rejected if tokens else 0),
        "duplicates": rows.num_duplicates,
        "held out already": rows.num_overlap,
        "beyond max_samples": rows.num_unused,
        "contaminated": rows.num_contaminated,
        "cut short": tokens.num_truncated if tokens else 0,
        "divided": tokens.num_divided if tokens else 0,
    }
    always = ("read", "to train on", "held out")
    return [(name, f"{count:,}") for name, count in counts.items() if count or name in always]


def _in_tokens(tokens: TokenizedArtifact) -> str:
    share = tokens.num_loss_tokens / tokens.num_tokens
    return (
        f"{tokens.num_samples:,} samples of {tokens.num_tokens:,} tokens, {share:.1%} for the loss; "
        f"the longest has {tokens.longest_tokens:,}"
    )


def _lengths(file: Path) -> str:
    """Return how many samples there are of each length, in bins that double."""
    counts: Counter[int] = Counter()
    num_bytes = 0
    try:
        with file.open("rb") as lines:
            for line in lines:
                counts[1 << (msgspec.json.decode(line, type=_Length).len - 1).bit_length()] += 1
                num_bytes += len(line)
                if num_bytes > _READ_BYTES:
                    break
            is_all = not lines.read(1)
    except FileNotFoundError:
        return "<p>The tokens are no longer in the store.</p>"
    most = max(counts.values())
    names = [(f"up to {bound:,} tokens", f"{count:,}", count) for bound, count in sorted(counts.items())]
    drawn = bars((name, f'<i style="left:0;width:{100 * count / most:.2f}%"></i>', text) for name, text, count in names)
    of = "" if is_all else f"<p>Of the first {sum(counts.values()):,} samples.</p>"
    return (
        drawn + of + details("lengths", "The lengths as a table", table(("length", "samples"), (n[:2] for n in names)))
    )
