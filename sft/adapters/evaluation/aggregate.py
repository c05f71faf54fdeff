"""Owns the scores of a held-out set: a file of samples, and for each metric a mean with its error."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.text_metrics import BLEU_COUNTS, bleu
from sft.errors import StageError
from sft.sample_values import SampleValues, append
from sft.scores import TEXT_METRICS, TOKEN_METRICS, is_better_when_higher


class _Sums:
    """What a metric sums up to over each conversation, and over how many turns or tokens."""

    def __init__(self) -> None:
        self.units: array[int] = array("q")
        self.clusters: array[int] = array("q")
        self.sums: array[float] = array("d")
        self.counts: array[float] = array("d")

    def add(self, unit: int, cluster: int, value: float, count: float) -> None:
        self.units.append(unit)
        self.clusters.append(cluster)
        self.sums.append(value)
        self.counts.append(count)

    def values(self, score: str, metric: str) -> SampleValues:
        return SampleValues(
            score=score,
            units=list(self.units),
            sums=list(self.sums),
            counts=list(self.counts),
            clusters=list(self.clusters) if len(set(self.clusters)) < len(self.units) else [],
            is_exponential=metric == "perplexity",
        )


def publish(rows: Iterable[Mapping[str, Any]], name: str, file: Path, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Write samples and values, and return the fields of each metric's `sft.scores.Score`.

    Samples are written in the set's order; values (`sft.sample_values`) beside them, in which conversations with one
    prompt are a cluster.

    Args:
        rows: A ``sample``'s place and its scored ``turns``, in the set's order.
        name: Of the held-out set.
        file: Where the samples go.
        metrics: Those that are scores.

    Raises:
        StageError: No conversation has a turn to score, or none a value of a metric.
    """
    found: dict[str, _Sums] = defaultdict(_Sums)
    bleu_counts: list[list[int]] = []
    first_with: dict[bytes, int] = {}
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            turns, unit = row["turns"], row["sample"]
            if not turns:  # every one of its turns is context
                continue
            cluster = first_with.setdefault(_digest(turns[0]["prompt"]), unit)
            num_tokens = sum(turn["num_tokens"] for turn in turns)
            loss = sum(turn["loss"] for turn in turns)
            found["loss"].add(unit, cluster, loss, num_tokens)
            found["perplexity"].add(unit, cluster, loss, num_tokens)
            found["token_accuracy"].add(unit, cluster, sum(turn["num_correct"] for turn in turns), num_tokens)
            for metric in turns[0].keys() & {*TEXT_METRICS}:
                if values := [turn[metric] for turn in turns if turn[metric] is not None]:
                    found[metric].add(unit, cluster, sum(values), len(values))
            if BLEU_COUNTS in turns[0]:
                found["bleu"].add(unit, cluster, math.nan, 1)
                bleu_counts.append([sum(counts) for counts in zip(*(t[BLEU_COUNTS] for t in turns), strict=True)])
            for turn in turns:
                lines.write(json.dumps({"sample": unit, **turn}, ensure_ascii=False) + "\n")
    if not found:
        fix = "give turns without weight 0, or eval.holdout.enabled=false"
        raise StageError(f"{name}: no held-out conversation has a turn to score", fix=fix)
    if bleu_counts:
        found["bleu"].sums = array("d", corpus_values(bleu, bleu_counts))
    chosen = [metric for metric in (*TOKEN_METRICS, *TEXT_METRICS) if metric in metrics]
    if absent := [metric for metric in chosen if metric not in found]:
        fix = "eval.holdout.extract must match the references"
        raise StageError(f"{name}: no reference has a value of {', '.join(absent)}", fix=fix)
    append(file.parent, (found[metric].values(f"{name}.{metric}", metric) for metric in chosen))
    return [_score(name, metric, found[metric]) for metric in chosen]


def _score(name: str, metric: str, found: _Sums) -> dict[str, Any]:
    value, stderr = mean(found.sums, found.counts)
    if metric == "perplexity":
        try:
            value = math.exp(value)
        except OverflowError as error:
            fix = "lower training.learning_rate if the training diverged, or leave it out of eval.holdout.metrics"
            raise StageError(f"{name}: a loss of {value:.1f} per token has no perplexity", fix=fix) from error
        stderr = stderr and stderr * value  # to first order (the delta method)
    return {
        "task": name,
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "num_samples": len(found.units),
        "higher_is_better": is_better_when_higher(metric),
    }


def corpus_values(metric: Callable[[Sequence[float]], float], counts: Sequence[Sequence[float]]) -> list[float]:
    """Return a value for each sample of a metric that is of all samples together, as BLEU is.

    They are the jackknife's pseudo-values (Tukey, *Bias and confidence in not-quite large samples*, 1958), moved so
    that their mean is the metric: the standard error of their mean is the jackknife's of the metric.

    Args:
        metric: Takes the sum of the samples' counts.
        counts: Of each sample.
    """
    total = [math.fsum(column) for column in zip(*counts, strict=True)]
    whole, size = metric(total), len(counts)
    if size < 2:
        return [whole] * size
    without = [metric([all_of - own for all_of, own in zip(total, one, strict=True)]) for one in counts]
    center = math.fsum(without) / size
    return [whole + (size - 1) * (center - one) for one in without]


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
