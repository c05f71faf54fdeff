"""Owns turning lm-eval's results into scores, and refusing what is no result. Imports nothing of lm-eval."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sft.errors import StageError

_SHOWN_CHARACTERS = 400


def scores_of(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every number in lm-eval's results, as the fields of `sft.scores.Score`.

    The first filter of a metric gives the plain name, as in ``exact_match``; a further one keeps lm-eval's
    ``exact_match,flexible-extract``.

    Raises:
        StageError: A task has no metric, or a metric is not a finite number.
    """
    for task, metrics in results["results"].items():
        seen: set[str] = set()
        for key, value in metrics.items():
            metric, comma, _ = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise StageError(f"eval.tasks: {task} gave {value!r} for {key}")
            stderr = metrics.get(f"{metric}_stderr,{key.partition(',')[2]}")
            yield {
                "task": task,
                "metric": key if metric in seen else metric,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None,
                "num_samples": _num_samples(task, results),
                "higher_is_better": results["higher_is_better"].get(task, {}).get(metric) is not False,
            }
            seen.add(metric)
        if not seen and task not in results.get("group_subtasks", {}):
            raise StageError(f"eval.tasks: {task} gave no metric; its results: {dict(metrics)}")


def refuse_nan(samples: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Refuse answers that are not a number: such a likelihood would still give an accuracy.

    Raises:
        StageError: There is one; the message shows the sample.
    """
    for task, rows in samples.items():
        for row in rows:
            if any(isinstance(number, float) and math.isnan(number) for number in _numbers(row["resps"])):
                prompt = str(next(iter(_texts(row["arguments"])), ""))[-_SHOWN_CHARACTERS:]
                fix = "check the model's weights, and the range of a lower precision"
                raise StageError(
                    f"eval.tasks: {task}, sample {row['doc_id']}: the model's answer is not a number; "
                    f"the prompt: {prompt}",
                    fix=fix,
                )


def _numbers(answer: Any) -> Iterator[Any]:
    if isinstance(answer, list | tuple):
        for part in answer:
            yield from _numbers(part)
    else:
        yield answer


def _texts(arguments: Any) -> Iterator[str]:
    return (text for text in _numbers(list(itertools.chain(*arguments))) if isinstance(text, str))


def _num_samples(task: str, results: Mapping[str, Any]) -> int:
    if task in results["n-samples"]:
        return int(results["n-samples"][task]["effective"])
    return sum(_num_samples(subtask, results) for subtask in results["group_subtasks"][task])


def digest_of_documents(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 of lm-eval's digests of a task's documents, in their order."""
    lines = sorted({(row["doc_id"], row["doc_hash"]) for row in rows})
    return hashlib.sha256("\n".join(f"{number} {digest}" for number, digest in lines).encode()).hexdigest()
