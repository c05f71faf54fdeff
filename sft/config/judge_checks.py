"""Rules of `eval.judge` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from sft.config.schema import HOLDOUT, EvalConfig, JudgeConfig, RunConfig
from sft.errors import Problem
from sft.gate_rules import Gate
from sft.known_secrets import is_secret_name
from sft.scores import JUDGE, WIN_RATE

_PATH = "/chat/completions"
_OURS = {"messages": "eval.judge.prompt", "model": "eval.judge.model", "seed": "eval.seed"}
_NOT_ONE_TEXT = {"n": 1, "stream": False}
"""Parameters that must have this value, so that one text comes back."""


def check_judge(run: RunConfig) -> Iterator[Problem]:
    """Yield every problem of `eval.judge`."""
    cfg, judge = run.eval, run.eval.judge
    if judge.address is None:
        for field in dataclasses.fields(JudgeConfig):
            if getattr(judge, field.name) != getattr(JudgeConfig(), field.name):
                rule, suggestion = "nothing is judged without eval.judge.address", "name the judge's server"
                yield Problem(key=f"eval.judge.{field.name}", rule=rule, suggestion=suggestion)
        return
    if judge.address.rstrip("/").endswith(_PATH):
        shorter = judge.address.rstrip("/").removesuffix(_PATH)
        yield Problem(
            key="eval.judge.address", value=judge.address, rule="ends before /chat/completions", suggestion=shorter
        )
    if not judge.model:
        rule, suggestion = "is required and not set", "say what the server calls its model"
        yield Problem(key="eval.judge.model", rule=rule, suggestion=suggestion)
    if judge.key_env is not None and not is_secret_name(judge.key_env):
        rule = "must be named like a secret, so that its value is masked wherever it would be printed"
        suggestion = "try OPENAI_API_KEY or JUDGE_API_KEY"
        yield Problem(key="eval.judge.key_env", value=judge.key_env, rule=rule, suggestion=suggestion)
    yield from _parameters(judge)
    yield from _nothing_to_judge(cfg)
    if HOLDOUT in cfg.judged_names and not run.has_held_out_split:
        rule, suggestion = (
            "leaves no held-out row whose answers eval.judge can compare",
            "try dataset.train_split=0.9, or name other sets in eval.judge.holdouts",
        )
        yield Problem(key="dataset.train_split", value=str(run.dataset.train_split), rule=rule, suggestion=suggestion)


def _parameters(judge: JudgeConfig) -> Iterator[Problem]:
    for name, value in judge.parameters.items():
        key = f"eval.judge.parameters.{name}"
        if name in _OURS:
            yield Problem(key=key, rule=f"is said by {_OURS[name]}")
        elif name in _NOT_ONE_TEXT and value not in (None, _NOT_ONE_TEXT[name]):
            yield Problem(key=key, value=str(value), rule="must leave one text to come back as a whole")


def _nothing_to_judge(cfg: EvalConfig) -> Iterator[Problem]:
    needed = {
        "eval.enabled": (cfg.enabled, "scores nothing"),
        "eval.baseline": (cfg.baseline, "leaves out the base model's answers"),
        "eval.holdout.generate": (cfg.holdout.generate, "leaves the answers unwritten"),
    }
    for key, (is_on, what) in needed.items():
        if not is_on:
            rule = f"{what}, and eval.judge compares base and tuned answers to held-out sets"
            yield Problem(key=key, value="false", rule=rule, suggestion=f"try {key}=true or eval.judge.address=null")
            return
    chosen = cfg.judge.holdouts
    if unknown := [name for name in chosen or () if name not in cfg.held_out_names]:
        rule = f"is no held-out set that is scored; there are {', '.join(cfg.held_out_names) or 'none'}"
        yield Problem(key="eval.judge.holdouts", value=", ".join(unknown), rule=rule)
    elif not cfg.judged_names:
        suggestion = "try null" if chosen is not None else "try eval.holdout.enabled=true, or a set in eval.holdouts"
        yield Problem(
            key="eval.judge.holdouts", value=str(chosen), rule="leaves nothing to judge", suggestion=suggestion
        )


def win_rate(held_out: str) -> str:
    """Return the name of the judge's score of a held-out set."""
    return ".".join([JUDGE, *([] if held_out == HOLDOUT else [held_out]), WIN_RATE])


def check_judge_gates(cfg: EvalConfig, name: str, gates: Sequence[Gate]) -> Iterator[Problem]:
    """Yield what is wrong with gates on the judge's verdicts."""
    key, value = f"eval.gates.{name}", " and ".join(gate.rule for gate in gates)
    if not cfg.enabled:
        yield Problem(key=key, value=value, rule="nothing is scored: eval.enabled=false")
    elif cfg.judge.address is None:
        yield Problem(key=key, value=value, rule="there is no judge", suggestion="set eval.judge.address")
    elif name not in (known := [win_rate(one) for one in cfg.judged_names]):
        yield Problem(key=key, value=value, rule=f"the judge gives only {', '.join(known) or 'nothing'}")
    elif any(gate.needs_baseline for gate in gates):
        rule = "compares with the base model already; it wins half of the time against itself"
        yield Problem(key=key, value=value, rule=rule, suggestion="try '>= 0.5'")
