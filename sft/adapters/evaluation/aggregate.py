"""Owns the scores of a held-out set: a file of samples, and for each metric a mean with its error."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.sample_log import SampleLog
from sft.errors import StageError
from sft.sample_values import SampleValues, append
from sft.scores import TEXT_METRICS, TOKEN_METRICS, is_better_when_higher


def publish(journal: SampleLog, name: str, file: Path) -> list[dict[str, Any]]:
    """Write samples and values, and return the fields of each metric's `sft.scores.Score`.

    Samples are written in the set's order; values (`sft.sample_values`) beside them, in which conversations with one
    prompt are a cluster.

    Args:
        journal: What was done.
        name: Of the held-out set.
        file: Where the samples go.

    Raises:
        StageError: No conversation has a turn to score.
    """
    sums: dict[str, tuple[array[float], array[float]]] = defaultdict(lambda: (array("d"), array("d")))
    units: list[int | str] = []
    clusters: list[int | str] = []
    first_with: dict[bytes, int] = {}

    def add(metric: str, value: float, count: float) -> None:
        values, counts = sums[metric]
        values.append(value)
        counts.append(count)

    with file.open("w", encoding="utf-8") as lines:
        for row in journal.in_order():
            turns = row["turns"]
            if not turns:  # every one of its turns is context
                continue
            units.append(row["sample"])
            clusters.append(first_with.setdefault(_digest(turns[0]["prompt"]), row["sample"]))
            num_tokens = sum(turn["num_tokens"] for turn in turns)
            add("loss", sum(turn["loss"] for turn in turns), num_tokens)
            add("token_accuracy", sum(turn["num_correct"] for turn in turns), num_tokens)
            for metric in turns[0].keys() & {*TEXT_METRICS}:
                add(metric, sum(turn[metric] for turn in turns), len(turns))
            for turn in turns:
                lines.write(json.dumps({"sample": row["sample"], **turn}, ensure_ascii=False) + "\n")
    if not sums:
        fix = "give turns without weight 0, or eval.holdout.enabled=false"
        raise StageError(f"{name}: no held-out conversation has a turn to score", fix=fix)
    means = {metric: mean(values, counts) for metric, (values, counts) in sums.items()}
    loss, error = means["loss"]
    sums["perplexity"] = sums["loss"]
    means["perplexity"] = math.exp(loss), error and error * math.exp(loss)  # to first order (the delta method)
    metrics = [metric for metric in (*TOKEN_METRICS, *TEXT_METRICS) if metric in means]
    append(
        file.parent,
        (
            SampleValues(
                score=f"{name}.{metric}",
                units=units,
                sums=list(sums[metric][0]),
                counts=list(sums[metric][1]),
                clusters=clusters if len(first_with) < len(units) else [],
                is_exponential=metric == "perplexity",
            )
            for metric in metrics
        ),
    )
    return [
        {
            "task": name,
            "metric": metric,
            "value": means[metric][0],
            "stderr": means[metric][1],
            "num_samples": len(sums["loss"][0]),
            "higher_is_better": is_better_when_higher(metric),
        }
        for metric in metrics
    ]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def mean(values: Sequence[float], counts: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over all turns or tokens, and its standard error; None for one conversation.

    Args:
        values: Sum over each conversation.
        counts: Number of turns or tokens of each conversation.

    The mean is a ratio of sums over conversations; its error is that of a ratio estimator, which respects that the
    tokens of one conversation belong together (Cochran, Sampling Techniques, 1977, eq. 6.13).
    """
    total, size = math.fsum(counts), len(values)
    ratio = math.fsum(values) / total
    if size < 2:
        return ratio, None
    squares = math.fsum((value - ratio * count) ** 2 for value, count in zip(values, counts, strict=True))
    return ratio, math.sqrt(squares * size / (size - 1)) / total
