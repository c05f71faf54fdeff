"""Which samples two models answered most differently, with both answers: from the samples that evaluations log."""

from __future__ import annotations

import glob
import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft.artifacts import EvalReport

NUM_SAMPLES = 20
"""Shown of each held-out set, and of all tasks together."""

_Key = tuple[int, int]
"""A sample's number and its turn's; of a task's document, 0."""


class ChangedSample(msgspec.Struct, kw_only=True):
    """A line of ``samples_changed.jsonl``.

    Attributes:
        task: `holdout`, or an lm-eval task.
        sample: Its place in the evaluation split, or the document's number.
        turn: Its place among the messages; None for a task's document.
        change: Mean over its metrics of how far the value moved, in units of the root mean square over all samples.
        prompt: All that stands before the answer.
        reference: The right answer.
        base: The base model's answer; None where none was written.
        tuned: The tuned model's.
        scores: Value before and after of each metric; a loss is per token.
    """

    task: str
    sample: int
    turn: int | None
    change: float
    prompt: str
    reference: str
    base: str | None
    tuned: str | None
    scores: dict[str, tuple[float, float]]


@dataclass
class _Logged:
    """A sample as one model answered it."""

    key: _Key
    turn: int | None
    prompt: str
    reference: str
    answer: str | None
    values: dict[str, float]


_Reader = Callable[[Mapping[str, Any], set[str]], _Logged]


def most_changed(base: EvalReport, tuned: EvalReport) -> list[ChangedSample]:
    """Return the samples that changed most: of each held-out set, and of all tasks whose samples were logged.

    Samples that did not change at all are left out.
    """
    held_out: list[ChangedSample] = []
    documents: list[ChangedSample] = []
    for task in dict.fromkeys(score.task for score in tuned.scores):
        metrics = {score.metric for score in tuned.scores if score.task == task}
        name = f"samples_{task}.jsonl"
        if (base.root / name).is_file() and (tuned.root / name).is_file():
            held_out += _changed(task, base.root / name, tuned.root / name, _turn, metrics)
        elif (before := _log(base.root, task)) and (after := _log(tuned.root, task)):
            documents += _changed(task, before, after, _document, metrics)
    return [*held_out, *heapq.nlargest(NUM_SAMPLES, documents, key=lambda sample: sample.change)]


def _log(root: Path, task: str) -> Path | None:
    """Return the file in which lm-eval logged a task's samples: its name ends with the time."""
    return next(iter(sorted(root.glob(f"samples_{glob.escape(task)}_[0-9][0-9][0-9][0-9]-*.jsonl"))), None)


def _changed(task: str, base: Path, tuned: Path, read: _Reader, metrics: set[str]) -> list[ChangedSample]:
    """Return the samples of two logs that changed most; each log is read twice, and only those are kept."""
    before = {sample.key: sample.values for sample in _samples(base, read, metrics)}
    moves: dict[str, dict[_Key, float]] = defaultdict(dict)
    for sample in _samples(tuned, read, metrics):
        old = before.get(sample.key, {})
        for metric in old.keys() & sample.values.keys():
            moves[metric][sample.key] = abs(sample.values[metric] - old[metric])
    changes: dict[_Key, list[float]] = defaultdict(list)
    for moved in moves.values():
        size = math.sqrt(math.fsum(move * move for move in moved.values()) / len(moved))
        for key, move in moved.items():
            changes[key].append(move / size if size else 0.0)
    means = {key: math.fsum(parts) / len(parts) for key, parts in changes.items() if any(parts)}
    largest = heapq.nsmallest(NUM_SAMPLES, means, key=lambda key: (-means[key], key))
    olds = {sample.key: sample for sample in _samples(base, read, metrics) if sample.key in largest}
    news = {sample.key: sample for sample in _samples(tuned, read, metrics) if sample.key in largest}
    return [
        ChangedSample(
            task=task,
            sample=key[0],
            turn=news[key].turn,
            change=means[key],
            prompt=news[key].prompt,
            reference=news[key].reference,
            base=olds[key].answer,
            tuned=news[key].answer,
            scores={name: (olds[key].values[name], value) for name, value in news[key].values.items()},
        )
        for key in largest
    ]


def _samples(file: Path, read: _Reader, metrics: set[str]) -> Iterator[_Logged]:
    """Yield each sample of a log once: lm-eval logs a document again for each further filter."""
    seen: set[_Key] = set()
    with file.open("rb") as lines:
        for line in lines:
            sample = read(msgspec.json.decode(line), metrics)
            if sample.key not in seen:
                seen.add(sample.key)
                yield sample


def _turn(row: Mapping[str, Any], metrics: set[str]) -> _Logged:
    """Return a turn of a held-out conversation."""
    per_token = {"loss": row["loss"], "token_accuracy": row["num_correct"]}
    values = {name: total / row["num_tokens"] for name, total in per_token.items() if name in metrics}
    values |= {name: float(row[name]) for name in metrics - per_token.keys() if isinstance(row.get(name), int | float)}
    return _Logged((row["sample"], row["turn"]), row["turn"], row["prompt"], row["target"], row["answer"], values)


def _document(row: Mapping[str, Any], metrics: set[str]) -> _Logged:
    """Return a document of an lm-eval task, as its log has it.

    The answer is what the model wrote or, of several choices, that to which it gave the most probability.
    """
    requests, answers = list(row["arguments"].values()), row["filtered_resps"]
    answer, reference = (answers[0] if answers and isinstance(answers[0], str) else None), str(row["target"])
    pairs = [pair for pair in answers if isinstance(pair, list) and len(pair) == 2]
    if len(pairs) == len(requests) > 1:
        choices = [str(request["arg_1"]).strip() for request in requests]
        answer = choices[max(range(len(pairs)), key=lambda place: float(pairs[place][0]))]
        reference = {str(place): choice for place, choice in enumerate(choices)}.get(reference, reference)
    values = {name: float(row[name]) for name in metrics if isinstance(row.get(name), int | float)}
    return _Logged((row["doc_id"], 0), None, str(requests[0]["arg_0"]), reference, answer, values)
