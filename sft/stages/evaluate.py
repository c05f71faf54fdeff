"""The evaluation stage: a model in, its scores out: lm-eval tasks, then the held-out split."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sft import sample_values
from sft.adapters.evaluation import task_files, task_index
from sft.adapters.evaluation.task_code import named_functions
from sft.adapters.os import machine
from sft.artifacts import LOGS_NAME, DatasetArtifact, EvalReport, TokenizedArtifact, digest_of, hash_files
from sft.chat.rejected import read_rejected
from sft.config import strict_yaml
from sft.config.schema import HOLDOUT, EvalBackend, EvalConfig, Sampling
from sft.errors import ConfigError, Problem, StageError
from sft.files import read_document, write_json
from sft.progress import Progress
from sft.scores import JUDGE, TOKEN_METRICS, Score
from sft.stages.scoring import emulated_type, score_model

REPORT_NAME = "report.json"
_PER_TOKEN = tuple(f".{metric}" for metric in TOKEN_METRICS)
_ANSWERS_DEPEND_ON = ("backend", "model_args", "batch_size", "apply_chat_template", "device", "revision")
_ANSWERING = ("torch", "transformers", "tokenizers", "lm-eval")
"""Settings and packages of the stage that decide how a model answers what it is asked."""


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Samples that are scored: the evaluation split, or a set of `eval.holdouts`.

    Attributes:
        name: What it is called among tasks.
        dataset: Whose held-out samples they are.
        tokenized: Which of them broke a rule of the tokenizer and are left out; None = none of them.
    """

    name: str
    dataset: DatasetArtifact
    tokenized: TokenizedArtifact | None = None

    @property
    def num_samples(self) -> int:
        """Samples that can be scored."""
        return self.dataset.num_eval - (self.tokenized.num_eval_rejected if self.tokenized else 0)

    def left_out(self) -> list[int]:
        """Return the places of those that can't be, from 0."""
        rejected = read_rejected(self.tokenized.rejected_file) if self.tokenized else ()
        return [row.line - 1 for row in rejected if row.is_held_out]


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs:
    """What the evaluation stage takes.

    Attributes:
        model_dir: The model to score, in Hugging Face layout.
        model_digest: Digest of the artifact that holds it.
        held_out: What is scored besides `eval.tasks`, each under its name.
        answers: Folder of what models answered before, which other evaluations share; None = nothing is kept.
        settings: What determines the result besides the inputs.
    """

    model_dir: Path
    model_digest: str
    trust_remote_code: bool
    held_out: tuple[HeldOutSet, ...] = ()
    answers: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers_folder(self) -> Path | None:
        """Folder of the answers of this very model under settings that its answers depend on."""
        if self.answers is None or self.settings["backend"] == EvalBackend.local_chat_completions.value:
            return None  # nobody knows which model a server has
        own = {name: self.settings[name] for name in _ANSWERS_DEPEND_ON}
        if self.settings["backend"] == EvalBackend.vllm.value:
            own["vllm"] = self.settings["vllm"]
        own["versions"] = {name: self.settings["versions"][name] for name in _ANSWERING}
        digest = hashlib.sha256(msgspec.json.encode(own, order="deterministic")).hexdigest()[:20]
        return self.answers / self.model_digest / digest


def tasks_version(cfg: EvalConfig) -> str:
    """Return a digest of the recipe's own tasks; empty without any. Imports nothing heavy.

    Raises:
        ConfigError: `eval.include_path` is not a folder, or a task is unknown.
    """
    folder = Path(cfg.include_path).expanduser() if cfg.include_path is not None else None
    if folder is not None and not folder.is_dir():
        rule = f"is not a folder (relative paths start at {Path.cwd()})"
        raise ConfigError([Problem(key="eval.include_path", value=str(folder), rule=rule)])
    if folder and (problems := list(_unreadable(folder))):
        raise ConfigError(problems)
    if folder and not cfg.allow_task_code and (named := named_functions(folder)):
        rule = "names Python code, which does not run with eval.allow_task_code=false"
        key = "eval.include_path"
        raise ConfigError([Problem(key=key, value=f"{folder / n}: {f}", rule=rule) for n, f in named.items()])
    own = task_index.own(folder) if folder else set()
    wanted = {
        "eval.tasks": cfg.tasks,
        "eval.gates": [name.partition(".")[0] for name in cfg.gates],
        "eval.no_regression": [name.partition(".")[0] for name in cfg.no_regression],
    }
    others = {name for names in wanted.values() for name in names} - own - {HOLDOUT, JUDGE, *cfg.holdouts}
    found = task_index.folders(others) if others else {}
    problems = [
        Problem(
            key=key,
            value=name,
            rule="there is no such lm-eval task"
            if key == "eval.tasks"
            else "no task and no held-out set has this name",
            suggestion=_nearest(name, folder, () if key == "eval.tasks" else cfg.held_out_names),
        )
        for key, names in wanted.items()
        for name in names
        if name in others - found.keys()
    ]
    tasks = own.union(*(task_index.own(path) for paths in found.values() for path in paths)) if cfg.holdouts else own
    rule = "is the name of a task, and scores go by name"
    problems += [Problem(key="eval.holdouts", value=name, rule=rule) for name in cfg.holdouts if name in tasks]
    if problems:
        raise ConfigError(problems)
    try:
        return digest_of(hash_files(folder) | task_files.further(folder)) if folder else ""
    except ValueError as error:
        raise ConfigError([Problem(key="eval.include_path", value=str(folder), rule=str(error))]) from error


def _unreadable(folder: Path) -> Iterator[Problem]:
    """Yield the YAMLs of a folder of tasks that no task would be written in: lm-eval would wait, or take all memory."""
    for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            strict_yaml.check(read_document(file, task_index.LARGEST_BYTES).decode(errors="replace"))
        except ValueError as error:
            yield Problem(key="eval.include_path", value=str(file), rule=str(error))


def _nearest(name: str, folder: Path | None, held_out: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, held_out, n=3) or task_index.closest(name, folder)
    return f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists them"


def evaluate(cfg: EvalConfig, inputs: EvaluateInputs, out: Path, progress: Progress) -> EvalReport:
    """Score one model.

    Args:
        cfg: The evaluation settings.
        inputs: Model and dataset.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        StageError: A task is unknown, a metric is missing or not a number, a sample can't be rendered, or there is
            nothing to score where something was asked for.
    """
    folder = out / LOGS_NAME
    state = folder / "progress.json"
    scored = [held_out for held_out in inputs.held_out if held_out.num_samples]
    if not cfg.tasks and not scored:
        raise StageError(
            "nothing to score: eval.tasks is empty, and the dataset has no held-out split",
            fix="dataset.train_split below 1, a set in eval.holdouts, a task in eval.tasks, or eval=none",
        )
    for held_out in inputs.held_out:
        if not held_out.num_samples:
            has_none = held_out.name == HOLDOUT and not held_out.dataset.num_eval
            why = "the dataset has no held-out split" if has_none else "none of its samples can be"
            progress.say(f"  {held_out.name} is not scored: {why}")

    def poll() -> None:
        if state.exists():
            progress.update(json.loads(state.read_text(encoding="utf-8"))["text"])

    for old in [*out.glob("results_*.json"), *out.glob("samples_*.jsonl"), *out.glob(sample_values.NAME)]:
        old.unlink()  # of a try that was killed
    if slow := emulated_type(cfg, inputs.model_dir):
        progress.say(
            f"  in {slow}, as saved, which this CPU emulates, slowly: eval.model_args={{dtype: float32}} is faster"
        )
    result = score_model(cfg, request_of(cfg, inputs, out, state), folder, progress, poll)
    report = EvalReport(
        root=out,
        model_digest=inputs.model_digest,
        scores=tuple(Score(**score) for score in result["scores"]),
        task_versions={name: str(version) for name, version in result["versions"].items()},
        task_data=result["data"],
        chat_template_sha256=result["chat_template_sha256"],
        holdout_sample=_drawn(cfg, scored),
        held_out_tokens=_held_out_tokens(out),
        dtype=result["dtype"],
        differs_from_saved=tuple(result["differs_from_saved"]),
        notes=tuple(result["notes"]),
    )
    if result["num_kept"]:
        progress.say(f"  {result['num_kept']:,} answers were there before, {result['num_new']:,} are new")
    for note in report.notes:
        progress.say(f"  {note}")
    for line in report.differs_from_saved:
        progress.say(f"  not as saved: {line}")
    if report.holdout_sample:
        progress.say(f"  held-out samples: {report.holdout_sample}")
    facts = {name: value for name, value in asdict(report).items() if name not in {"root", "digest"}}
    write_json(out / REPORT_NAME, facts)
    progress.say("  " + ", ".join(f"{score.name} {score.value:.4f}" for score in report.scores))
    return report


def _held_out_tokens(out: Path) -> dict[str, int]:
    values = sample_values.read(out) if (out / sample_values.NAME).exists() else {}
    counted = {name.rpartition(".")[0]: one.counts for name, one in values.items() if name.endswith(_PER_TOKEN)}
    return {task: round(math.fsum(counts)) for task, counts in counted.items() if counts}


def _drawn(cfg: EvalConfig, scored: Sequence[HeldOutSet]) -> str:
    """Return which held-out samples are scored, in words; empty where all are."""
    limit = cfg.holdout.limit
    parts = [
        f"{limit:,} of {held_out.num_samples:,}" + (f" of {held_out.name}" if held_out.name != HOLDOUT else "")
        for held_out in scored
        if limit is not None and limit < held_out.num_samples
    ]
    return f"{', '.join(parts)}, drawn with eval.seed={cfg.seed}" if parts else ""


def request_of(cfg: EvalConfig, inputs: EvaluateInputs, out: Path, state: Path) -> dict[str, Any]:
    """Return our settings as the child's request."""
    batch_size = None if cfg.batch_size == "auto" else int(cfg.batch_size)
    writing = None
    if cfg.writes_answers():
        is_greedy = cfg.holdout.sampling is Sampling.greedy
        seed = 0 if is_greedy else cfg.seed
        writing = {"max_new_tokens": cfg.holdout.max_new_tokens, "is_greedy": is_greedy, "seed": seed}
    held_out_sets = [
        {
            "name": held_out.name,
            "file": str(held_out.dataset.eval_file),
            "left_out": held_out.left_out(),
            "limit": cfg.holdout.limit,
            "metrics": cfg.holdout.scored(),
            "exact_match_ignores": [each.value for each in cfg.holdout.exact_match_ignores],
            "extract": cfg.holdout.extract,
            "writing": writing,
            "batch_size": batch_size,
        }
        for held_out in inputs.held_out
        if held_out.num_samples
    ]
    return {
        "out": str(out),
        "progress": str(state),
        "answers": str(inputs.answers_folder or state.with_name("answers")),
        "backend": cfg.backend.value,
        "model_dir": str(inputs.model_dir),
        "divides_model": cfg.backend is EvalBackend.vllm and cfg.vllm.tensor_parallel_size > 1,
        "trust_remote_code": inputs.trust_remote_code,
        "tasks": cfg.tasks,
        "include_path": cfg.include_path and str(Path(cfg.include_path).expanduser()),
        "allow_task_code": cfg.allow_task_code,
        "num_fewshot": cfg.num_fewshot,
        "limit": cfg.limit,
        "batch_size": cfg.batch_size if batch_size is None else batch_size,
        "gen_kwargs": cfg.gen_kwargs,
        "model_args": cfg.model_args,
        "apply_chat_template": cfg.apply_chat_template,
        "system_instruction": cfg.system_instruction,
        "fewshot_as_multiturn": cfg.fewshot_as_multiturn,
        "log_samples": cfg.log_samples,
        "verbosity": cfg.verbosity.value,
        "seed": cfg.seed,
        "held_out": held_out_sets,
        **_shared(cfg),
    }


def _shared(cfg: EvalConfig) -> dict[str, Any]:
    """Return by how many processes the work is shared, and the GPU of each; no GPUs where one process may use all."""
    ids = machine.gpu_ids()
    divides_model = not {"parallelize", "device_map", "device"}.isdisjoint(cfg.model_args)
    is_divisible = cfg.backend is EvalBackend.hf and not divides_model
    num = cfg.num_processes or (max(1, len(ids)) if is_divisible else 1)
    devices = [ids[place % len(ids)] for place in range(num)] if ids and num > 1 else []
    return {"share": {"index": 0, "num": num}, "devices": devices}
