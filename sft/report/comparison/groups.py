"""Which runs compare: those whose score was taken in the same way on the same samples; and how sure the first place is.

What a score was taken with stands in the record of the evaluation: its settings, versions of libraries, digest of the
samples, chat template, and how many tokens the tokenizer made of the answers. Scores that differ in any of it are in
different groups, each ranked for itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sft import paired, sample_values
from sft.paired import NotPaired
from sft.record import RunRecord, StepRecord
from sft.scores import JUDGE, Change, Verdict
from sft.stages.compare import judged

TRAIN_LOSS = "train.loss"
_OF_TASKS = {
    "apply_chat_template", "backend", "fewshot_as_multiturn", "gen_kwargs", "num_fewshot", "system_instruction",
}  # fmt: skip
"""Evaluation settings that say nothing of a held-out set's score."""
_OF_HELD_OUT_SETS = {"holdout", "holdouts"}
"""Those that say nothing of a task's."""
_WITHOUT_INFLUENCE = {"batch_size", "device", "include_path", "limit", "log_samples", "tasks"}
"""Those that say nothing of a score, given the digest of the samples."""
_OF_THE_LOSS = ("loss", "label_smoothing", "z_loss", "neftune_alpha")
"""Training settings that change what a training's loss is a loss of."""
_SHOWN_DIGITS = 8


class Evaluation(msgspec.Struct, kw_only=True, frozen=True):
    """How a run's score was taken.

    Attributes:
        facts: What must be the same for two scores to compare.
        limit: How many samples were asked for: told where samples differ.
        report: Folder of the evaluation; None for the training's loss.
    """

    facts: dict[str, str] = {}
    limit: str = ""
    report: str | None = None


class Group(msgspec.Struct, kw_only=True):
    """Runs that compare.

    Attributes:
        number: From 1.
        size: Runs that have the score.
        differs: What sets it apart from the other groups; empty if it is the only one.
        first_two: What a paired test says of its first two runs; empty if it has only one.
    """

    number: int
    size: int
    differs: dict[str, str]
    first_two: str = ""

    @property
    def title(self) -> str:
        """What the group is, in a line."""
        told = ", ".join(f"{name} {value or 'none'}" for name, value in self.differs.items())
        return f"group {self.number}, {self.size} run{'s' * (self.size != 1)}: {told}"


def evaluation_of(rec: RunRecord, folder: Path, score: str) -> Evaluation:
    """Return how a score of a run was taken.

    Args:
        rec: The run's record.
        folder: Where it lies.
        score: `train.loss`, or ``task.metric`` of the tuned model.
    """
    steps = {step.name: step for step in rec.steps if step.output}
    if score == TRAIN_LOSS:
        tokens, train = steps.get("tokenize"), steps.get("train")
        said = train.settings if train else {}
        objective = {f"training.{name}": _text(said.get(name, "")) for name in _OF_THE_LOSS}
        return Evaluation(facts={"training data": _short(tokens.output) if tokens else "", **objective})
    store, tuned = folder.parent / "store", steps.get("evaluate:tuned")
    task, _, metric = score.partition(".")
    judge = steps.get(":".join([JUDGE, *metric.split(".")[:-1]])) if task == JUDGE else None
    if judge is not None:
        return Evaluation(facts=dict(_judge_facts(judge)), report=str(store / "judge" / str(judge.key)))
    if tuned is None:
        return Evaluation()
    place = store / "evaluate" / str(tuned.key)
    return Evaluation(facts=dict(_facts(tuned, *score.split(".", 1))), limit=_limit(tuned, score), report=str(place))


def _facts(tuned: StepRecord, task: str, metric: str) -> Iterator[tuple[str, str]]:
    is_held_out = _is_held_out(tuned, task)
    left_out = _WITHOUT_INFLUENCE | (_OF_TASKS if is_held_out else _OF_HELD_OUT_SETS)
    for name, value in _flat(tuned.settings, "", left_out):
        yield f"eval.{name}" if not name.startswith(("versions.", "revision")) else name, value
    yield "dtype", _text(tuned.facts.get("dtype", ""))
    data = tuned.facts.get("task_data", {})
    yield f"data of {task}", _short(data[task] if task in data else _text(data))
    if is_held_out or tuned.settings.get("apply_chat_template"):
        yield "chat template", _short(tuned.facts.get("chat_template_sha256"))
    if is_held_out and metric in {"loss", "perplexity", "token_accuracy"}:
        yield "tokens of the answers", _text(tuned.facts.get("held_out_tokens", {}).get(task))


def _judge_facts(judge: StepRecord) -> Iterator[tuple[str, str]]:
    for name, value in _flat(judge.settings, "", set()):
        yield f"eval.{name}" if name.startswith("judge.") else name, value
    yield "answered by", _text(judge.facts.get("answered_by"))
    yield "dataset", _short(next((one for name, one in judge.inputs.items() if name.startswith("dataset")), None))
    yield "base model's answers", _short(judge.inputs.get("evaluate:base"))


def _is_held_out(tuned: StepRecord, task: str) -> bool:
    return f"samples_{task}.jsonl" in tuned.files


def _limit(tuned: StepRecord, score: str) -> str:
    is_held_out = _is_held_out(tuned, score.partition(".")[0])
    settings = tuned.settings.get("holdout", {}) if is_held_out else tuned.settings
    return _text(settings.get("limit"))


def _flat(tree: Mapping[str, Any], prefix: str, left_out: set[str]) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if name in left_out:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.", left_out)
        else:
            yield prefix + name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()


def _short(digest: str | None) -> str:
    return (digest or "")[:_SHOWN_DIGITS] if digest and len(digest) == 64 else digest or ""


def grouped(evaluations: Sequence[Evaluation | None]) -> tuple[list[Group], list[int]]:
    """Return the groups of runs, the largest first, and each run's; 0 where a run has no score.

    Args:
        evaluations: How each run's score was taken; None where it has none.
    """
    keys = [tuple(sorted(one.facts.items())) if one else None for one in evaluations]
    sizes = Counter(key for key in keys if key is not None)
    ordered = [key for key, _ in sizes.most_common()]
    told: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for key, one in zip(keys, evaluations, strict=True):
        if key is not None and one is not None:
            told.setdefault(key, {**one.facts, "limit": one.limit})
    names = dict.fromkeys(name for facts in told.values() for name in facts)
    varied = [name for name in names if len({facts.get(name, "") for facts in told.values()}) > 1]
    groups = [
        Group(number=number, size=sizes[key], differs={name: told[key].get(name, "") for name in varied})
        for number, key in enumerate(ordered, 1)
    ]
    return groups, [0 if key is None else ordered.index(key) + 1 for key in keys]


def first_two(score: str, first: Evaluation, second: Evaluation, *, higher_is_better: bool, confidence: float) -> str:
    """Return what a paired test says of a run's score against another's.

    Args:
        score: Its name.
        first: Of the run that is ahead.
        second: Of the one behind it.
        higher_is_better: Direction of the metric.
        confidence: Of the interval that must exclude 0.
    """
    if first.report is None or second.report is None:
        return "no paired test: it is no mean over samples"
    try:
        ahead, behind = (sample_values.read(Path(one.report or ""))[score] for one in (first, second))
        change = Change(
            score=score,
            before=behind.value,
            difference=ahead.value - behind.value,
            higher_is_better=higher_is_better,
            verdict=Verdict.none,
        )
        return str(judged(change, paired.compare(behind, ahead), confidence, confidence))
    except FileNotFoundError:
        return "no paired test: the values of the samples are not in the store"
    except KeyError:
        return "no paired test: it is no mean over samples"
    except NotPaired as error:
        return f"no paired test: {error}"
