"""The judge stage: two models' answers to a held-out set in, how often the tuned model's is the better one out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, Artifact, DatasetArtifact, EvalReport, JudgeReport
from sft.config.schema import HOLDOUT, EvalConfig, JudgeConfig
from sft.errors import ConfigError, Problem
from sft.files import write_json
from sft.progress import Progress
from sft.scores import JUDGE, WIN_RATE, Score

REPORT_NAME = "judge.json"
_FIRST_WAIT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class JudgeInputs:
    """What the judge stage takes.

    Attributes:
        dataset: Whose held-out samples were answered.
        baseline: Answers of the base model.
        report: Answers of the tuned model.
        held_out: Name of the set.
    """

    dataset: DatasetArtifact
    baseline: EvalReport
    report: EvalReport
    held_out: str = HOLDOUT


def check_key(cfg: JudgeConfig) -> None:
    """Refuse a key that is not there. Called before anything is trained.

    Raises:
        ConfigError: The environment has no variable of that name.
    """
    if cfg.key_env is not None and not os.environ.get(cfg.key_env):
        rule, suggestion = "is not set in the environment", f"export {cfg.key_env}=…"
        raise ConfigError([Problem(key="eval.judge.key_env", value=cfg.key_env, rule=rule, suggestion=suggestion)])


def judges_of(made: Mapping[str, Artifact]) -> tuple[JudgeReport, ...]:
    """Return the judge's reports, one for each held-out set that was judged.

    Args:
        made: What the steps of a run made, by their names.
    """
    return tuple(
        report for name, report in made.items() if name.partition(":")[0] == JUDGE and isinstance(report, JudgeReport)
    )


def judge(cfg: EvalConfig, inputs: JudgeInputs, out: Path, progress: Progress) -> JudgeReport:
    """Compare the answers, and write ``judge.json`` and ``judgments.jsonl``.

    Args:
        cfg: The evaluation settings; `judge.address` is set.
        inputs: The answers.
        out: Private staging folder; the same one again after a stop.
        progress: The run's display.

    Raises:
        ConfigError: The key is not there.
        StageError: The server refuses or keeps failing, or too many judgments end without a verdict.
    """
    check_key(cfg.judge)
    folder = out / LOGS_NAME
    state = folder / "progress.json"

    def poll() -> None:
        if state.exists():
            progress.update(json.loads(state.read_text(encoding="utf-8"))["text"])

    request = request_of(cfg, inputs, out, state)
    result = run_module("sft.adapters.evaluation.judge", request, folder=folder, what="judging", poll=poll)
    for note in result.pop("notes"):
        progress.say(f"  {note}")
    answered_by = tuple(result["answered_by"])
    score = Score(**result["score"])
    report = JudgeReport(root=out, model=cfg.judge.model, **{**result, "score": score, "answered_by": answered_by})
    facts = {name: value for name, value in asdict(report).items() if name not in {"root", "digest"}}
    write_json(out / REPORT_NAME, {**facts, "prompt": cfg.judge.prompt})
    progress.say(f"  {report}")
    return report


def request_of(cfg: EvalConfig, inputs: JudgeInputs, out: Path, state: Path) -> dict[str, Any]:
    """Return our settings as the child's request. The key is not in it: the child has it from the environment."""
    return {
        **asdict(cfg.judge),
        "first_wait_seconds": _FIRST_WAIT_SECONDS,
        "seed": cfg.seed,
        "held_out": inputs.held_out,
        "metric": WIN_RATE if inputs.held_out == HOLDOUT else f"{inputs.held_out}.{WIN_RATE}",
        "data": str(inputs.dataset.eval_file),
        "base": str(inputs.baseline.root),
        "tuned": str(inputs.report.root),
        "out": str(out),
        "progress": str(state),
        "journal": str(state.with_name("judgments.jsonl")),
    }
