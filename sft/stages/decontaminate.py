"""Training samples that share text with what a model is scored on: found for `sft data check`, dropped for
`dataset.decontaminate`. What counts as shared is `sft.chat.decontamination`'s to say.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.os.process import run_module
from sft.chat.decontamination import EvaluationTexts, Overlap, Question
from sft.config.schema import EvalConfig

CONTAMINATED_NAME = "contaminated.jsonl"
HELD_OUT = "held-out split"
_BATCH = 512


@dataclass(frozen=True)
class EvaluationTasks:
    """lm-eval tasks whose documents must not be trained, the folder of the recipe's own, whether those may run code."""

    names: tuple[str, ...] = ()
    include_path: str | None = None
    allow_code: bool = False

    @classmethod
    def of(cls, cfg: EvalConfig) -> EvaluationTasks:
        """Return the tasks that a recipe scores."""
        return cls(tuple(cfg.tasks) if cfg.enabled else (), cfg.include_path, cfg.allow_task_code)


NO_TASKS = EvaluationTasks()


@dataclass
class Contamination:
    """What was found.

    Attributes:
        by_evaluation: Training samples that share text with it, by its name; 0 where none does.
        examples: The first of them, per evaluation, with the sample's line.
        task_data: sha256 of each task's documents.
    """

    by_evaluation: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    task_data: dict[str, str] = field(default_factory=dict)

    def add(self, line: int, overlaps: list[Overlap]) -> None:
        """Count a training sample."""
        for overlap in overlaps:
            self.by_evaluation[overlap.evaluation] += 1
            if len(self.examples[overlap.evaluation]) < 3:
                self.examples[overlap.evaluation].append(f"training sample {line} shares with {overlap}")

    def lines(self) -> Iterator[str]:
        """Yield what a person reads: a count per evaluation, then its examples."""
        for evaluation, count in self.by_evaluation.most_common():
            yield f"{count or 'no'} training samples share text with {evaluation}"
            yield from (f"  {example}" for example in self.examples[evaluation])


def find(train_file: Path, held_out: Mapping[str, Path], tasks: EvaluationTasks, folder: Path) -> Contamination:
    """Count the training samples that share text with held-out samples or with a task.

    Args:
        train_file: The training split.
        held_out: Files of held-out samples by what they are called; a file may be empty.
        tasks: The tasks.
        folder: Private folder for the child process that reads the tasks.

    Raises:
        StageError: A task is unknown, or its data can't be had.
    """
    contamination = Contamination()
    for _ in _read(train_file, held_out, tasks, folder, contamination):
        pass
    return contamination


def drop(
    root: Path, tasks: EvaluationTasks, held_out_sets: Mapping[str, Path], folder: Path
) -> tuple[int, Contamination]:
    """Move the training samples that share text with an evaluation from ``train.jsonl`` to ``contaminated.jsonl``.

    Args:
        root: The folder of the splits.
        tasks: The tasks.
        held_out_sets: The samples of held-out sets besides the split, by name.
        folder: As in `find`.

    Returns:
        How many were moved, and what was found.

    Raises:
        StageError: A task is unknown, or its data can't be had.
    """
    contamination, num_moved = Contamination(), 0
    train_file, kept_file = root / "train.jsonl", root / "train.jsonl.part"
    held_out = {HELD_OUT: root / "eval.jsonl", **held_out_sets}
    with kept_file.open("wb") as kept, (root / CONTAMINATED_NAME).open("wb") as moved:
        for line, overlaps in _read(train_file, held_out, tasks, folder, contamination):
            if overlaps:
                num_moved += 1
                facts = {
                    "overlaps": [asdict(overlap) for overlap in overlaps],
                    "sample": msgspec.Raw(line.rstrip(b"\n")),
                }
                moved.write(msgspec.json.encode(facts) + b"\n")
            else:
                kept.write(line)
    kept_file.replace(train_file)
    summary = {"tasks": contamination.task_data, "by_evaluation": contamination.by_evaluation}
    (root / "decontamination.json").write_bytes(msgspec.json.encode(summary, order="deterministic"))
    return num_moved, contamination


def _read(
    train_file: Path,
    held_out: Mapping[str, Path],
    tasks: EvaluationTasks,
    folder: Path,
    contamination: Contamination,
) -> Iterator[tuple[bytes, list[Overlap]]]:
    """Yield each training sample's line with what it shares, and count on the way."""
    texts = EvaluationTexts()
    for name, file in held_out.items():
        if file.stat().st_size:
            contamination.by_evaluation[name] = 0
            texts.add_split(name, map(_messages, _lines(file)))
    for name, questions in _questions(tasks, folder, contamination).items():
        contamination.by_evaluation[name] = 0
        texts.add_task(name, questions)
    number = 0
    lines = _lines(train_file)
    while batch := list(itertools.islice(lines, _BATCH)):
        for line, overlaps in zip(batch, texts.overlaps(list(map(_messages, batch))), strict=True):
            number += 1
            contamination.add(number, overlaps)
            yield line, overlaps


def _questions(tasks: EvaluationTasks, folder: Path, contamination: Contamination) -> dict[str, list[Question]]:
    """Return the documents of each task, which a child process gets from lm-eval."""
    if not tasks.names:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "documents.jsonl"
    include_path = tasks.include_path and str(Path(tasks.include_path).expanduser().absolute())
    request = {
        "tasks": tasks.names,
        "include_path": include_path,
        "allow_task_code": tasks.allow_code,
        "target": str(target),
    }
    result = run_module(
        "sft.adapters.evaluation.task_documents", request, folder=folder, what="reading the tasks' documents"
    )
    contamination.task_data.update(result["data"])
    questions: dict[str, list[Question]] = {name: [] for name in result["data"]}
    for line in _lines(target):
        facts = msgspec.json.decode(line)
        questions[facts["task"]].append(Question(facts["prompt"], facts["answer"]))
    target.unlink()
    return questions


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        yield from lines


def _messages(line: bytes) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = msgspec.json.decode(line)["messages"]
    return messages
