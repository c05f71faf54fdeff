"""The evaluation stage: a model in, its scores out: lm-eval tasks, then the held-out split."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft import sample_values
from sft.adapters.evaluation import task_index
from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, EvalReport, TokenizedArtifact, digest_of, hash_files
from sft.chat.rejected import read_rejected
from sft.config.schema import EvalConfig
from sft.errors import ConfigError, Problem, StageError
from sft.files import write_json
from sft.progress import Progress
from sft.scores import JUDGE, Score

REPORT_NAME = "report.json"
HOLDOUT = "holdout"
"""What the held-out split is called among tasks."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs:
    """What the evaluation stage takes.

    Attributes:
        model_dir: The model to score, in Hugging Face layout.
        model_digest: Digest of the artifact that holds it.
        dataset: Whose held-out split is scored; None where `eval.holdout` is off.
        tokenized: Which of its held-out samples broke a rule of the tokenizer and are left out; None = none of them.
    """

    model_dir: Path
    model_digest: str
    trust_remote_code: bool
    dataset: DatasetArtifact | None
    tokenized: TokenizedArtifact | None = None

    @property
    def num_held_out(self) -> int:
        """Samples that can be scored."""
        if self.dataset is None:
            return 0
        return self.dataset.num_eval - (self.tokenized.num_eval_rejected if self.tokenized else 0)


def tasks_version(cfg: EvalConfig) -> str:
    """Return a digest of the recipe's own tasks; empty without any. Imports nothing heavy.

    Raises:
        ConfigError: `eval.include_path` is not a folder, or a task is unknown.
    """
    folder = Path(cfg.include_path).expanduser() if cfg.include_path is not None else None
    if folder is not None and not folder.is_dir():
        rule = f"is not a folder (relative paths start at {Path.cwd()})"
        raise ConfigError([Problem(key="eval.include_path", value=str(folder), rule=rule)])
    own = task_index.own(folder) if folder else set()
    wanted = {"eval.tasks": cfg.tasks, "eval.gates": [name.partition(".")[0] for name in cfg.gates]}
    others = {name for names in wanted.values() for name in names} - own - {HOLDOUT, JUDGE}
    unknown = others - task_index.folders(others).keys() if others else set()
    if problems := [
        Problem(key=key, value=name, rule="there is no such lm-eval task", suggestion=_nearest(name, folder))
        for key, names in wanted.items()
        for name in names
        if name in unknown
    ]:
        raise ConfigError(problems)
    return digest_of(hash_files(folder)) if folder else ""


def _nearest(name: str, folder: Path | None) -> str:
    close = task_index.closest(name, folder)
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
    if cfg.holdout.enabled and not inputs.num_held_out:
        if not cfg.tasks:
            raise StageError(
                "nothing to score: eval.tasks is empty, and the dataset has no held-out split",
                fix="dataset.train_split below 1, a task in eval.tasks, or eval=none",
            )
        progress.say("  no held-out split (dataset.train_split=1.0): only eval.tasks are scored")

    def poll() -> None:
        if state.exists():
            progress.update(json.loads(state.read_text(encoding="utf-8"))["text"])

    for old in [*out.glob("results_*.json"), *out.glob("samples_*.jsonl"), *out.glob(sample_values.NAME)]:
        old.unlink()  # of a try that was killed
    module = "sft.adapters.evaluation.worker"
    result = run_module(module, request_of(cfg, inputs, out, state), folder=folder, what="evaluating", poll=poll)
    for note in result["notes"]:
        progress.say(f"  {note}")
    report = EvalReport(
        root=out,
        model_digest=inputs.model_digest,
        scores=tuple(Score(**score) for score in result["scores"]),
        task_versions={name: str(version) for name, version in result["versions"].items()},
        task_data=result["data"],
        chat_template_sha256=result["chat_template_sha256"],
        holdout_sample=_holdout_sample(cfg, inputs),
    )
    if report.holdout_sample:
        progress.say(f"  held-out samples: {report.holdout_sample}")
    facts = {name: value for name, value in asdict(report).items() if name not in {"root", "digest"}}
    write_json(out / REPORT_NAME, facts)
    progress.say("  " + ", ".join(f"{score.name} {score.value:.4f}" for score in report.scores))
    return report


def _holdout_sample(cfg: EvalConfig, inputs: EvaluateInputs) -> str:
    """Return which held-out samples are scored, in words; empty where all are."""
    num, limit = inputs.num_held_out, cfg.holdout.limit
    if not cfg.holdout.enabled or limit is None or limit >= num:
        return ""
    return f"{limit:,} of {num:,}, drawn with eval.seed={cfg.seed}"


def request_of(cfg: EvalConfig, inputs: EvaluateInputs, out: Path, state: Path) -> dict[str, Any]:
    """Return our settings as the child's request."""
    batch_size = None if cfg.batch_size == "auto" else int(cfg.batch_size)
    held_out = None
    if cfg.holdout.enabled and inputs.dataset and inputs.num_held_out:
        rejected = read_rejected(inputs.tokenized.rejected_file) if inputs.tokenized else ()
        held_out = {
            "file": str(inputs.dataset.eval_file),
            "generate": cfg.holdout.generate,
            "max_new_tokens": cfg.holdout.max_new_tokens,
            "limit": cfg.holdout.limit,
            "left_out": [row.line - 1 for row in rejected if row.is_held_out],
            "batch_size": batch_size,
            "journal": str(state.with_name("holdout.jsonl")),
        }
    return {
        "out": str(out),
        "progress": str(state),
        "answers": str(state.with_name("answers.jsonl")),
        "backend": cfg.backend.value,
        "model_dir": str(inputs.model_dir),
        "trust_remote_code": inputs.trust_remote_code,
        "tasks": cfg.tasks,
        "include_path": cfg.include_path and str(Path(cfg.include_path).expanduser()),
        "num_fewshot": cfg.num_fewshot,
        "limit": cfg.limit,
        "batch_size": cfg.batch_size if batch_size is None else batch_size,
        "gen_kwargs": cfg.gen_kwargs,
        "model_args": cfg.model_args,
        "apply_chat_template": cfg.apply_chat_template,
        "system_instruction": cfg.system_instruction,
        "log_samples": cfg.log_samples,
        "verbosity": cfg.verbosity.value,
        "seed": cfg.seed,
        "holdout": held_out,
    }
