"""How long a run will take: from what was measured on the same model, and not from anything else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact, EvalReport, TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.planning.plan import Plan, Step, tokens_to_validate
from sft.runner.measured import time_line
from sft.store import Entry, Store
from tests.support.store import publish

RANKS = {"device": "cpu", "num_nodes": 1, "num_processes": 2, "strategy": "FULL_SHARD", "precision": "fp32"}
CONFIG = TrainingConfig(num_epochs=2, effective_batch_size=10)
SETTINGS = {"lora": {"rank": 0}, "resources": RANKS, "learning_rate": 1e-4}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.open()
    return made


@pytest.fixture
def have(store: Store) -> dict[str, Entry]:
    out = store.staging("tokenize", "t", resume=False)
    counts = {"num_rows": 100, "num_samples": 100, "num_tokens": 5000, "num_loss_tokens": 10, "longest_tokens": 60}
    made = TokenizedArtifact(root=out, **counts)
    tokens = store.publish("t", "tokenize", made, settings={}, inputs={}, seconds=1.0)
    return {"model": publish(store), "tokenize": tokens}


def trained(store: Store, model: str, key: str = "a", last: dict[str, Any] | None = None, **settings: Any) -> None:
    """Publish a training of 10 steps at 1,000 tokens/s that took 15 s in all.

    Args:
        last: More of its last row.
    """
    out = store.staging("train", key, resume=False)
    (out / "logs").mkdir()
    rows = [{"step": step, "num_tokens": 1000, "seconds": 1.0} for step in range(10)]
    rows[-1] |= last or {}
    (out / "logs" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    made = CheckpointArtifact(root=out, num_steps=10, num_epochs=1, final_loss=1.0, world_size=2)
    store.publish(key, "train", made, settings={**SETTINGS, **settings}, inputs={"model": model}, seconds=15.0)


def line(have: dict[str, Entry], store: Store, *stages: str, cfg: TrainingConfig = CONFIG) -> str | None:
    steps = {"train": Step(name="train", stage="train", settings={**SETTINGS, "learning_rate": 9.0})}
    steps["evaluate"] = Step(name="evaluate:tuned", stage="evaluate", settings={"limit": 3})
    return time_line(cfg, Plan(tuple(steps[stage] for stage in stages)), have, store)


def test_a_training_of_the_same_model_says_how_long_this_one_takes(store: Store, have: dict[str, Entry]) -> None:
    trained(store, have["model"].manifest.digest)
    # 100 samples of 50 tokens, twice, at 1,000 tokens/s, and the 5 s in which the other made no step
    assert line(have, store, "train") == "time       about 15 s: train 15 s (at 1,000 tokens/s, as measured here)"


@pytest.fixture
def labelled(store: Store, have: dict[str, Entry]) -> dict[str, Entry]:
    """What is there, and a set `chat` of 300 tokens for the loss."""
    out = store.staging("tokenize", "c", resume=False)
    counts = {"num_rows": 30, "num_samples": 30, "num_tokens": 900, "num_loss_tokens": 300, "longest_tokens": 60}
    made = TokenizedArtifact(root=out, **counts)
    entry = store.publish("c", "tokenize", made, settings={}, inputs={}, seconds=1.0)
    return {**have, tokens_to_validate("chat"): entry}


MEASURED = {
    "num_validation_tokens": 50,
    "num_validation_tokens.chat": 150,
    "num_validation_tokens.source": 50,  # part of the split's, that of a source
    "validation_seconds": 2.0,
}
SPLIT_AND_SET = {"validation_split": 0.1, "validation_sets": ["chat"]}


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        # 90 samples of 50 tokens twice: 9 s, all else: 3 s; a tenth of 10 loss tokens and the set's 300, 100 a second
        ({"validation_sets": ["chat"]}, 9 + 3 + 2 * 3.01),
        ({"validation_sets": ["chat"], "validation_frequency": 4}, 9 + 3 + 5 * 3.01),  # of 18 steps 4, and the last
        ({"validation_sets": ["chat"], "validation_frequency": 6}, 9 + 3 + 3 * 3.01),
        ({"validation_frequency": 4}, 9 + 3 + 4 * 0.01),  # the split is not validated once more at the end
        ({"validation_split": 0.0}, 10 + 3),
    ],
    ids=["each epoch", "every 4 steps", "every 6 steps", "split alone", "nothing"],
)
def test_what_is_validated_takes_its_time(
    changes: dict[str, Any], seconds: float, store: Store, labelled: dict[str, Entry]
) -> None:
    cfg = replace(CONFIG, **{"validation_split": 0.1, **changes})
    trained(store, labelled["model"].manifest.digest, last=MEASURED, **SPLIT_AND_SET)
    told = f"train {seconds:.0f} s (at 1,000 tokens/s, as measured here)"
    assert told in str(line(labelled, store, "train", cfg=cfg))


def test_what_was_not_measured_of_validating_is_said(store: Store, labelled: dict[str, Entry]) -> None:
    cfg = replace(CONFIG, validation_sets=["chat"])
    without = "train 15 s (at 1,000 tokens/s, as measured here, without what it validates)"
    trained(store, labelled["model"].manifest.digest)
    assert without in str(line(labelled, store, "train", cfg=cfg))
    del labelled[tokens_to_validate("chat")]
    assert without in str(line(labelled, store, "train", cfg=cfg))


def test_another_model_or_another_number_of_ranks_says_nothing(store: Store, have: dict[str, Entry]) -> None:
    trained(store, "another")
    trained(store, have["model"].manifest.digest, key="b", resources={**RANKS, "num_processes": 4})
    trained(store, have["model"].manifest.digest, key="c", lora={"rank": 8})
    assert line(have, store, "train") == "time       not known before something like it was done in this run root"


def test_before_the_data_is_tokenised_nothing_is_said_of_the_training(store: Store, have: dict[str, Entry]) -> None:
    trained(store, have["model"].manifest.digest)
    assert "not known" in str(line({"model": have["model"]}, store, "train"))


def test_an_evaluation_alike_says_how_long_this_one_takes(store: Store, have: dict[str, Entry]) -> None:
    out = store.staging("evaluate", "e", resume=False)
    report = EvalReport(root=out, model_digest="", scores=())
    model = have["model"].manifest.digest
    store.publish("e", "evaluate", report, settings={"limit": 3}, inputs={"model": model}, seconds=3000.0)
    assert (
        line(have, store, "train", "evaluate") == "time       about 50 min: evaluate:tuned 50 min; not known of train"
    )


def test_an_evaluation_of_another_model_says_nothing(store: Store, have: dict[str, Entry]) -> None:
    out = store.staging("evaluate", "e", resume=False)
    report = EvalReport(root=out, model_digest="", scores=())
    store.publish("e", "evaluate", report, settings={"limit": 3}, inputs={"model": "another"}, seconds=3000.0)
    assert "not known" in str(line(have, store, "evaluate"))


def test_where_nothing_is_to_be_done_there_is_no_line(store: Store, have: dict[str, Entry]) -> None:
    assert line(have, store) is None
