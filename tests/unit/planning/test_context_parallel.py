"""Which ranks and models can share rows, and what a plan makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.adapters.os import machine
from sft.config.compose import compose, find_recipe
from sft.config.schema import Attention, LauncherConfig, LauncherKind, TrainingConfig
from sft.errors import ConfigError
from sft.planning import estimate
from sft.planning.context_parallel import check_model, why_not_shared
from sft.planning.environment import Environment
from sft.planning.resources import Resources, resolve_resources, resources_of
from sft.planning.stage_spec import STAGES

LLAMA = {"model_type": "llama", "num_attention_heads": 12, "num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)


def resources(size: int, *, ranks: int = 4, nodes: int = 1, **settings: Any) -> Resources:
    launcher = LauncherConfig(procs_per_worker=ranks, num_workers=nodes)
    if nodes > 1:
        launcher = LauncherConfig(
            kind=LauncherKind.kubeflow, num_workers=nodes, procs_per_worker=ranks, gpus_per_worker=0
        )
    return resolve_resources(TrainingConfig(context_parallel=size, launcher=launcher, **settings))


@pytest.mark.parametrize(("size", "at_once"), [(1, 4), (2, 2), (4, 1)])
def test_a_batch_is_divided_by_those_that_do_not_share_rows(size: int, at_once: int) -> None:
    found = resources(size)
    assert found.world_size == 4
    assert found.num_sharing_batch == at_once


@pytest.mark.parametrize(
    ("settings", "longest", "budget"),
    [
        ({}, 5000, 2048),  # which four ranks have room for
        ({"max_seq_len": 100_000}, 9_999, 2500),  # the next multiple of four ranks
        ({"max_tokens_per_gpu": 3000}, 9_999, 3000),
    ],
)
def test_a_rank_has_its_part_of_the_longest_sample(settings: dict[str, int], longest: int, budget: int) -> None:
    found = resources(4, **settings)
    assert found.token_budget(longest) == budget
    assert found.row_budget(longest) == 4 * budget >= longest


@pytest.mark.parametrize(
    ("size", "ranks", "said"),
    [
        (3, 4, "must divide the 4 ranks of this training (num_workers, procs_per_worker, gpus_per_worker); try 2, 4"),
        (2, 1, "must divide the 1 rank of this training"),
        (8, 4, "try 2, 4"),
    ],
)
def test_ranks_that_do_not_divide_all_are_refused(size: int, ranks: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resources(size, ranks=ranks)
    assert f"training.context_parallel={size}: " in str(caught.value)
    assert said in str(caught.value)


def test_a_row_that_crosses_nodes_is_told() -> None:
    assert resources(4, ranks=2, nodes=4).num_sharing_batch == 2
    assert any("ranks of several nodes share a row" in note for note in resources(4, ranks=2, nodes=4).notes)
    assert not any("share a row" in note for note in resources(2, ranks=2, nodes=4).notes)


def test_shared_rows_take_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resources(2)
    assert found.attention is Attention.varlen
    assert found.reasons["attention"] == "ranks share a row, which takes torch's own, sample by sample"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "lfm2"}, "lfm2 is not among the architectures"),
        ({"model_type": "bamba"}, "this model's samples are padded: bamba is not among"),
        ({"model_type": "bloom"}, "bloom is not among"),  # ALiBi
        ({"model_type": "gemma2"}, "gemma2 caps its scores"),
        ({"attention_dropout": 0.1}, "its attention_dropout is 0.1"),
        ({"auto_map": {"AutoModel": "own.Model"}}, "its code is its own"),
        ({"num_attention_heads": 9}, "must divide the model's 9 attention heads; try one of 3, 9"),
        ({"num_attention_heads": None}, "doesn't say num_attention_heads"),
        ({"rope_scaling": {"type": "longrope"}}, "its RoPE (longrope) depends on how long a row is"),
    ],
)
def test_models_whose_rows_ranks_can_not_share_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_model({**LLAMA, **changes}, 4)
    assert "training.context_parallel=4: " in str(caught.value)
    assert said in str(caught.value)
    check_model({**LLAMA, **changes}, 1)


@pytest.mark.parametrize("size", [2, 3, 4, 6, 12])
def test_key_heads_need_not_be_as_many_as_ranks(size: int) -> None:
    assert why_not_shared(LLAMA, size) is None
    assert why_not_shared({**LLAMA, "model_type": "mistral", "sliding_window": 5}, size) is None


def planned(*overrides: str) -> Resources:
    return resources_of(compose(find_recipe("quickstart"), ["training.precision=fp32", *overrides]))


def test_a_plan_refuses_a_model_before_anything_is_done(tmp_path: Path) -> None:
    assert planned("training.context_parallel=2").context_parallel == 2
    with pytest.raises(ConfigError, match="must divide the model's 3 attention heads"):
        planned("training.context_parallel=2", "model.scratch.num_attention_heads=3", "model.scratch.hidden_size=36",
                "model.scratch.num_key_value_heads=3")  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="mamba is not among the architectures"):
        planned("training.context_parallel=2", "model=hub", f"model.name_or_path={tmp_path}")


def test_who_shares_rows_is_in_the_key_and_whole_rows_have_the_key_they_had() -> None:
    cfg = compose(find_recipe("quickstart"), [])

    def settings(size: int) -> dict[str, Any]:
        environment = Environment(resources=resources(size, ranks=2), versions={})
        return STAGES["train"].settings(cfg, environment)

    whole, shared = settings(1), settings(2)
    assert shared["resources"].pop("context_parallel") == 2
    assert "context_parallel" not in whole | whole["resources"]
    assert shared == whole


def test_too_long_a_sample_is_told_how_many_ranks_could_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "host_bytes", lambda: 80 << 30)
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 32000, '
        '"num_attention_heads": 16, "intermediate_size": 4096}',
        encoding="utf-8",
    )
    settings = ["model=hub", f"model.name_or_path={tmp_path}", "training.launcher.procs_per_worker=4"]
    settings += ["training.max_seq_len=8192", "training.max_tokens_per_gpu=8192", "training.precision=fp32"]
    lack = estimate.why_too_large(compose(find_recipe("quickstart"), settings))
    assert lack is not None
    alone, _, shared = lack.partition("; try ")[2].partition(", or ")
    fitting = shared.removesuffix(", so many ranks to a row").split()
    assert fitting[1] == "training.context_parallel=4"
    for suggested in (alone.split(), fitting):
        assert estimate.why_too_large(compose(find_recipe("quickstart"), [*settings, *suggested])) is None
