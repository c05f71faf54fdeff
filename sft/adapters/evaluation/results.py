"""Owns turning lm-eval's results into scores, and refusing what is no result. Imports nothing of lm-eval."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sft.errors import StageError
from sft.sample_values import SampleValues

_SHOWN_CHARACTERS = 400
_LIKE = 1e-9
"""Relative difference up to which two computations of a score are the same."""


def scores_of(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every number in lm-eval's results, as the fields of `sft.scores.Score`.

    The first filter of a metric gives the plain name, as in ``exact_match``; a further one keeps lm-eval's
    ``exact_match,flexible-extract``.

    Raises:
        StageError: A task has no metric, or a metric is not a finite number.
    """
    for task in results["results"]:
        is_empty = True
        for key, metric, value, stderr in _metrics(task, results):
            is_empty = False
            yield {
                "task": task,
                "metric": metric,
                "value": value,
                "stderr": stderr,
                "num_samples": _num_samples(task, results),
                "higher_is_better": results["higher_is_better"].get(task, {}).get(key.partition(",")[0]) is not False,
            }
        if is_empty and task not in results.get("group_subtasks", {}):
            raise StageError(f"eval.tasks: {task} gave no metric; its results: {dict(results['results'][task])}")


def _metrics(task: str, results: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float | None]]:
    """Yield lm-eval's key of each metric of a task, the metric's name among our scores, its value and its error.

    Raises:
        StageError: A metric is not a finite number.
    """
    metrics = results["results"][task]
    seen: set[str] = set()
    for key, value in metrics.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise StageError(f"eval.tasks: {task} gave {value!r} for {key}")
        stderr = metrics.get(f"{metric}_stderr,{kind}")
        has_error = isinstance(stderr, int | float) and math.isfinite(stderr)
        yield key, key if metric in seen else metric, float(value), float(stderr) if has_error else None
        seen.add(metric)


def values_of(results: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[SampleValues]:
    """Return what each score is made of, as far as it is a mean over samples.

    lm-eval keeps what a metric says of each sample, but not how it makes a score of that. So each form of a mean is
    tried, and taken if it gives the very score: a mean, the exponential of one, a ratio of sums. A score of which none
    does (BLEU, F1 of a whole corpus) has no values. The units of a group are its tasks, because questions of one
    subject are easy or hard together.

    Args:
        results: lm-eval's results.
        samples: The logged samples of each task.
    """
    for task in results["results"]:
        for key, metric, value, _ in _metrics(task, results):
            name = f"{task}.{metric}"
            forms = _forms(name, key, samples[task]) if task in samples else _group_forms(name, task, key, results)
            yield from itertools.islice((form for form in forms if _gives(form, value)), 1)


def _gives(form: SampleValues, value: float) -> bool:
    """Return whether a form of a score gives its value."""
    if form.is_exponential:
        return value > 0 and math.isclose(form.ratio, math.log(value), rel_tol=_LIKE, abs_tol=_LIKE)
    return math.isclose(form.ratio, value, rel_tol=_LIKE, abs_tol=_LIKE)


def _forms(score: str, key: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[SampleValues]:
    """Yield a task's score in each form that its samples may have."""
    metric, _, kind = key.partition(",")
    known = {row["doc_id"]: row[metric] for row in rows if row["filter"] == kind and metric in row}
    units: list[int | str] = [*known]
    numbers = [_plain(value) for value in known.values()]
    if units and all(isinstance(value, float) for value in numbers):
        yield SampleValues(score=score, units=units, sums=numbers)
        losses = [-value for value in numbers]  # of log-likelihoods: "perplexity", metrics.py:44@0.4.13
        yield SampleValues(score=score, units=units, sums=losses, is_exponential=True)
    if units and all(isinstance(value, tuple) and value[1] > 0 for value in numbers):
        losses, counts = [-value for value, _ in numbers], [count for _, count in numbers]
        yield SampleValues(score=score, units=units, sums=losses, counts=counts, is_exponential=True)
        bits = [loss / math.log(2) for loss in losses]  # "bits_per_byte", metrics.py:54@0.4.13
        yield SampleValues(score=score, units=units, sums=bits, counts=counts)


def _plain(value: Any) -> Any:
    """Return a number, whatever its type, as a float, two of them as a pair, and None for anything else."""
    if isinstance(value, tuple | list) and len(value) == 2:
        pair = tuple(map(_plain, value))
        return pair if all(isinstance(part, float) for part in pair) else None
    value = value.item() if hasattr(value, "item") else value  # numpy's
    return float(value) if isinstance(value, int | float) else None


def _group_forms(score: str, group: str, key: str, results: Mapping[str, Any]) -> Iterator[SampleValues]:
    """Yield a group's score as the mean over its tasks, weighted by their samples or not."""
    tasks = dict.fromkeys(task for task in _tasks_in(group, results) if key in results["results"][task])
    units: list[int | str] = [*tasks]
    means = [float(results["results"][task][key]) for task in tasks]
    sizes = [float(_num_samples(task, results)) for task in tasks]
    if units:
        sums = [mean * size for mean, size in zip(means, sizes, strict=True)]
        yield SampleValues(score=score, units=units, sums=sums, counts=sizes)
        yield SampleValues(score=score, units=units, sums=means)


def _tasks_in(group: str, results: Mapping[str, Any]) -> Iterator[str]:
    for name in results["group_subtasks"].get(group, ()):
        yield from [name] if name in results["n-samples"] else _tasks_in(name, results)


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
