"""What two real ranks do to buffers, gradients and weights: FSDP1 with and without sft's replacements, and FSDP2."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import fsdp2, sharding
from sft.errors import StageError

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.slow,
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD")


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("ranks") / "results.json"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [*torchrun, "-m", "tests.support.sharding_ranks", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text(encoding="utf-8"))


def test_every_buffer_of_every_architecture_keeps_type_and_values_in_bf16(on_two_ranks: Any) -> None:
    changed = {name: buffers for name, buffers in on_two_ranks["buffers"].items() if buffers}
    assert not changed
    assert len(on_two_ranks["buffers"]) > 50  # of both versions
    rounded = on_two_ranks["unfixed"]["buffers"]
    assert "model.rotary_emb.inv_freq" in rounded, "accelerate rounds no buffer any more: see rank/sharding.py"


def test_gradients_are_summed_over_ranks_in_fp32(on_two_ranks: Any) -> None:
    assert {kind for kinds in on_two_ranks["sums"].values() for kind in kinds} == {"torch.float32"}
    assert on_two_ranks["unfixed"]["sums"] == ["torch.bfloat16"]


@pytest.mark.parametrize("version", ["", "FSDP2 "])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_offloaded_gradients_are_those_of_all_minibatches(version: str, strategy: str, on_two_ranks: Any) -> None:
    assert on_two_ranks[f"offload {version}{strategy}"] < 1e-6
    assert on_two_ranks[f"offload unfixed {strategy}"] > 0.5, "torch adds them itself: see rank/sharding.py"


@pytest.mark.parametrize("version", ["", "FSDP2 "])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gradient_is_not_rounded_again_with_each_minibatch(version: str, strategy: str, on_two_ranks: Any) -> None:
    assert on_two_ranks[f"bf16 {version}{strategy}"] < 1e-6


@pytest.mark.parametrize(
    ("case", "bound"),
    [
        *((strategy, 2e-5) for strategy in STRATEGIES),
        ("tied", 2e-5),
        ("bf16", 2e-4),
        ("adapters on torch.float32", 0),
        ("adapters on torch.bfloat16", 0),
    ],
)
def test_fsdp1_and_fsdp2_train_the_same_weights(case: str, bound: float, on_two_ranks: Any) -> None:
    found = on_two_ranks[f"apart {case}"]
    assert found["weights"] <= bound
    assert found["norms"] <= bound


@pytest.mark.parametrize(("case", "bound"), [("llama", 2e-5), ("adapters", 2e-4)])
def test_sharded_layers_train_the_same_weights_when_they_are_compiled(
    case: str, bound: float, on_two_ranks: Any
) -> None:
    found = on_two_ranks[f"compiled {case}"]
    assert found["weights"] <= bound
    assert found["graphs"] >= 4
    assert found["breaks"] == {}


def test_what_is_frozen_stays_in_bf16_and_adapters_are_fp32(on_two_ranks: Any) -> None:
    assert on_two_ranks["apart adapters on torch.bfloat16"]["types"] == ["torch.bfloat16", "torch.float32"]


def test_without_sharding_accelerates_precision_rounds_a_gradient_with_each_minibatch(on_two_ranks: Any) -> None:
    assert on_two_ranks["bf16 unfixed NO_SHARD"] > 1e-3


@pytest.mark.parametrize(
    ("is_gpt_oss", "scales", "refused"), [(True, None, True), (False, {"a": 1}, True), (False, None, False)]
)
def test_what_fsdp2_could_not_save_is_refused_before_it_is_trained(
    is_gpt_oss: bool, scales: Any, refused: bool
) -> None:
    network = SimpleNamespace(config=SimpleNamespace(_fp8_scales=scales))
    with pytest.raises(StageError, match="not saved") if refused else nullcontext():
        fsdp2.check_savable(SimpleNamespace(is_gpt_oss=is_gpt_oss, model=network))


def test_groups_of_hybrid_sharding_need_as_many_gpus_as_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 8))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(StageError, match="4 ranks of this node see 8 GPUs"):
        sharding.check_hybrid_groups()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    sharding.check_hybrid_groups()


def test_a_new_group_waits_as_long_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import distributed_c10d

    backends = (distributed_c10d.Backend.NCCL, distributed_c10d.Backend.GLOO)
    with sharding.patched_timeouts(4000):
        waits = {distributed_c10d._get_default_timeout(backend).total_seconds() for backend in backends}
    assert waits == {4000}
