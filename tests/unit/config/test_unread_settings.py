"""A setting that is set and does nothing, where that may be meant, is told in the plan."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sft.config.compose import recipes
from sft.config.unread_settings import unread_settings
from tests.support.configs import composed

PRETRAINED = ["model=hub", "model.name_or_path=org/name"]


def told(*overrides: str) -> list[str]:
    return list(unread_settings(composed(*overrides)))


@pytest.mark.long
@pytest.mark.parametrize("name", [recipe.name for recipe in recipes()])
def test_a_shipped_recipe_sets_nothing_in_vain(name: str) -> None:
    data = [] if name == "mix" else ["dataset.uri=data.jsonl"]
    assert list(unread_settings(composed(*data, recipe=name))) == []


def test_settings_of_a_mix_that_do_nothing_are_told() -> None:
    sources = ["dataset.uri=", "dataset.sources.a.uri=a.jsonl", "dataset.stop=all_exhausted"]
    assert told(*sources) == ["dataset.stop=all_exhausted: not read with dataset.mixing=concatenate"]
    by_shares = [*sources, "dataset.mixing=proportional", "dataset.mixing_temperature=2"]
    assert told(*by_shares) == ["dataset.mixing_temperature=2.0: read only with dataset.mixing=temperature"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["training.lora.alpha=64", "training.lora.dropout=0"],
            [
                "training.lora.alpha=64: not read with training.lora.rank=0, which trains every weight",
                "training.lora.dropout=0.0: not read with training.lora.rank=0, which trains every weight",
            ],
        ),
        (["training.lora.alpha=64", "training.lora.rank=8"], []),
        (
            ["training.lr_scheduler=constant"],
            ["training.schedule.warmup_ratio=0.1: lr_scheduler=constant has none; constant_with_warmup has"],
        ),
        (
            ["training.schedule.cycles=3", "training.schedule.min_learning_rate=1e-5"],
            [
                "training.schedule.min_learning_rate=1e-05: not read with lr_scheduler=cosine, but by "
                "cosine_with_min_lr and polynomial and warmup_stable_decay",
                "training.schedule.cycles=3: not read with lr_scheduler=cosine, but by cosine_with_restarts",
            ],
        ),
        (["training.schedule.cycles=3", "training.lr_scheduler=cosine_with_restarts"], []),
        (["training.lr_scheduler=constant_with_warmup"], []),
        (
            ["training.async_states=false", "training.num_epochs=1"],
            ["training.async_states=false: not read, since no full state is saved on the way"],
        ),
        (
            ["training.async_states=false", "training.fsdp.version=1"],
            [
                "training.async_states=false: not read with training.fsdp.version=1, whose ranks wait for each full "
                "state",
            ],
        ),
        (["training.async_states=false"], []),
        (
            ["training.tracking.project=team"],
            ["training.tracking.project=team: read only with mlflow or wandb among training.tracking.trackers"],
        ),
        (["training.tracking.project=team", "training.tracking.trackers=[mlflow]"], []),
        (
            ["training.launcher.rendezvous=host:29500", "training.launcher.node_rank=0"],
            [
                "training.launcher.node_rank=0: not read with training.launcher.num_workers=1",
                "training.launcher.rendezvous=host:29500: not read with training.launcher.num_workers=1",
            ],
        ),
        (["training.launcher.rendezvous=host:29500", "training.launcher.num_workers=2"], []),
        (
            ["model.revision=abc", "model.trust_remote_code=true"],
            [
                "model.revision=abc: not read with model.source=scratch",
                "model.trust_remote_code=true: not read with model.source=scratch",
            ],
        ),
        (
            [*PRETRAINED, "model.revision=abc", "model.scratch.hidden_size=128"],
            ["model.scratch.hidden_size=128: not read with model.source=pretrained"],
        ),
        (
            ["eval.holdout.enabled=false", "eval.holdout.limit=5"],
            [
                "eval.holdout.max_new_tokens=24: not read with eval.holdout.enabled=false",
                "eval.holdout.limit=5: not read with eval.holdout.enabled=false",
            ],
        ),
        (
            ["dataset.eval_uri=held.jsonl", "dataset.train_split=0.5"],
            ["dataset.train_split=0.5: not read, since dataset.eval_uri brings the held-out samples"],
        ),
        (
            ["dataset.uri=rows.jsonl", "dataset.storage_options.endpoint_url=http://host"],
            ["dataset.storage_options: not read for rows.jsonl"],
        ),
        (["dataset.uri=s3://bucket/rows.jsonl", "dataset.storage_options.endpoint_url=http://host"], []),
        (["dataset.uri=rows.jsonl", "dataset=s3"], []),
        (
            ["registry.pvc=claim:/mount", "registry.upload=s3://bucket/models"],
            ["registry.pvc=claim:/mount: not read, since registry.upload says where the model is"],
        ),
    ],
)
def test_what_does_nothing_is_told_with_the_reason(overrides: Sequence[str], said: list[str]) -> None:
    assert told(*overrides) == said
