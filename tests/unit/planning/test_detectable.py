"""What an evaluation could see, said before it: from the base model's scores, or from how many samples there are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact, EvalReport, TokenizedArtifact
from sft.config.schema import EvalConfig, HoldoutConfig
from sft.paired import PairedDifference
from sft.planning.detectable import detectable_differences
from sft.scores import Score

COUNTS = {"num_rows": 400, "num_train": 90, "num_rejected": 0, "num_duplicates": 0, "num_unused": 0}
DATA = DatasetArtifact(root=Path(), source="", source_version="", num_eval=310, **COUNTS)
TOKENS = TokenizedArtifact(
    root=Path(), num_rows=1, num_samples=1, num_tokens=1, num_loss_tokens=1, longest_tokens=1, num_eval_rejected=10
)


def sizes(cfg: EvalConfig, **have: Any) -> dict[str, list[str]]:
    """What each line but the first says, by its first word."""
    lines = list(detectable_differences(cfg, {name.replace("_", ":"): made for name, made in have.items()}))
    return {words[0]: words[1:] for words in map(str.split, lines[1:])}


def test_a_scored_base_model_tells_each_scores_size() -> None:
    facts: dict[str, Any] = {"task": "t", "value": 0.5, "num_samples": 1200, "higher_is_better": True}
    scores = (
        Score(metric="acc", stderr=0.01, **facts), Score(metric="f1", stderr=None, **facts),
        Score(metric="exact_match", stderr=0.0, **facts),
    )  # fmt: skip
    base = EvalReport(root=Path(), model_digest="", scores=scores)
    found = sizes(EvalConfig(), evaluate_base=base, dataset=DATA)
    assert found == {"t.acc": ["0.0396", "1,200", "samples"]}
    unrelated = PairedDifference(difference=0, stderr=0.01 * math.sqrt(2), num_units=1200, freedom=1199, p_value=1)
    assert float(found["t.acc"][0]) == pytest.approx(unrelated.detectable(0.95), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "have", "told"),
    [
        ({}, {"dataset": DATA, "tokenize": TOKENS}, {"holdout": ["0.11", "300"]}),
        ({"holdout": HoldoutConfig(limit=50)}, {"dataset": DATA}, {"holdout": ["0.28", "50"]}),
        ({"holdout": HoldoutConfig(limit=50)}, {}, {"holdout": ["0.28", "at"]}),
        ({"confidence": 0.99}, {"dataset": DATA, "tokenize": TOKENS}, {"holdout": ["0.14", "300"]}),
        ({"limit": 200, "holdout": HoldoutConfig(enabled=False)}, {"dataset": DATA}, {"each": ["of", "eval.tasks"]}),
        ({"limit": 1, "holdout": HoldoutConfig(limit=1)}, {"dataset": DATA}, {}),
        ({"baseline": False}, {"dataset": DATA}, {}),
        ({"enabled": False}, {"dataset": DATA}, {}),
        ({}, {}, {}),
    ],
)
def test_before_it_only_what_is_known_of_the_samples_is_said(
    settings: dict[str, Any], have: dict[str, Any], told: dict[str, list[str]]
) -> None:
    assert {name: words[:2] for name, words in sizes(EvalConfig(**settings), **have).items()} == told
