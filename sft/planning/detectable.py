"""Which differences between base and tuned model an evaluation would see, said before the run. Nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

from sft.artifacts import Artifact, DatasetArtifact, EvalReport, TokenizedArtifact
from sft.config.schema import HOLDOUT, EvalConfig
from sft.paired import POWER

_WORST = 0.5
"""Largest standard deviation of an answer that is right or wrong: of one that is right half of the time."""


def detectable_differences(cfg: EvalConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield a line for each score, or each set of samples, of which enough is known.

    Both models' answers are taken as unrelated, so that the variance of a difference is twice that of a score. They are
    related, and smaller differences are seen: the run says which. Each score is taken alone, and samples are taken as
    many, so that the quantiles are the normal distribution's.

    Args:
        cfg: The evaluation settings.
        have: What is done of the plan, by step.
    """
    if not cfg.enabled or not cfg.baseline:
        return
    lines = [*(_of_scores(cfg, have["evaluate:base"]) if "evaluate:base" in have else _of_samples(cfg, have))]
    if lines:
        yield (
            f"tells      true differences of the size below, in {POWER:.0%} of evaluations at {cfg.confidence:.6g} "
            "confidence; smaller ones as far as both models answer alike:"
        )
        yield from lines


def _of_scores(cfg: EvalConfig, base: Artifact) -> Iterator[str]:
    """Yield a line for each score of the base model that has an error."""
    for score in base.scores if isinstance(base, EvalReport) else ():
        if score.stderr:
            size = _quantiles(cfg) * math.sqrt(2) * score.stderr
            yield f"           {score.name:<32}{size:<10.4f}{score.num_samples:,} samples"


def _of_samples(cfg: EvalConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield a line for each set of samples whose size is known, for answers that are right or wrong."""
    for name, num, how_many in _sizes(cfg, have):
        size = _quantiles(cfg) * math.sqrt(2) * _WORST / math.sqrt(num)
        yield f"           {name:<32}{size:<10.2f}{how_many} samples, right or wrong, half of them right"


def _sizes(cfg: EvalConfig, have: Mapping[str, Artifact]) -> Iterator[tuple[str, int, str]]:
    sets = {HOLDOUT: ""} if cfg.holdout.enabled else {}
    for name, suffix in {**sets, **{name: f":{name}" for name in cfg.holdouts}}.items():
        data, tokens = have.get(f"dataset{suffix}"), have.get(f"tokenize{suffix}")
        limit = cfg.holdout.limit
        if isinstance(data, DatasetArtifact):
            num = data.num_eval - (tokens.num_eval_rejected if isinstance(tokens, TokenizedArtifact) else 0)
            num = min(num, limit or num)
            if num > 1:
                yield name, num, f"{num:,}"
        elif limit is not None and limit > 1:
            yield name, limit, f"at most {limit:,}"
    if cfg.tasks and cfg.limit is not None and cfg.limit > 1:
        yield "each of eval.tasks", cfg.limit, f"at most {cfg.limit:,}"


def _quantiles(cfg: EvalConfig) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1 - (1 - cfg.confidence) / 2) + normal.inv_cdf(POWER)
