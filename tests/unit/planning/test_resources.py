"""What a training gets where the machine can't do what the recipe says, and that it is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sft.adapters.instructlab.settings import Nodes
from sft.adapters.os import machine
from sft.config.schema import (
    Attention,
    Compile,
    FsdpConfig,
    LauncherConfig,
    LauncherKind,
    Precision,
    ShardingStrategy,
    TrainingConfig,
)
from sft.errors import ConfigError
from sft.planning.kernels import missing_for_compiling
from sft.planning.precision import CpuPrecision
from sft.planning.resources import resolve_resources

H200 = "NVIDIA H200"


def cfg(**settings: Any) -> TrainingConfig:
    return TrainingConfig(**settings)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    def machine_with(*gpus: str, capability: tuple[int, int] = (9, 0), packages: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(machine, "gpus", lambda: gpus)
        monkeypatch.setattr(machine, "compute_capability", lambda: capability)
        monkeypatch.setattr(machine, "c_compiler", lambda: "gcc")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in packages else None)

    return machine_with


def test_on_a_cpu_precision_is_what_was_chosen_for_it_and_the_reason_is_kept(on: Any) -> None:
    on()
    chosen = CpuPrecision(precision=Precision.bf16, reason="timed")
    found = resolve_resources(cfg(), chosen)
    assert (found.precision, found.reasons["precision"]) == (Precision.bf16, "timed")
    assert resolve_resources(cfg(precision=Precision.fp32), chosen).precision is Precision.fp32


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), Precision.fp32), ((8, 0), Precision.bf16)])
def test_on_a_gpu_precision_follows_its_compute_capability(
    capability: tuple[int, int], precision: Precision, on: Any
) -> None:
    on(H200, capability=capability)
    assert resolve_resources(cfg(), CpuPrecision(precision=Precision.fp32, reason="")).precision is precision


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_epochs": 2}, None),
        ({"checkpoint_every_steps": 5}, None),
        ({}, "no full state is saved on the way"),
        ({"num_epochs": 2, "full_state_at_epoch": False}, "no full state is saved on the way"),
        ({"num_epochs": 2, "fsdp": FsdpConfig(version=1)}, "only FSDP2's states are copied aside"),
    ],
)
def test_training_goes_on_while_a_state_is_written_where_that_is_possible(
    settings: dict[str, Any], reason: str | None, on: Any
) -> None:
    on()
    found = resolve_resources(cfg(**settings))
    assert (found.async_states, found.reasons.get("async_states")) == (reason is None, reason)
    assert not resolve_resources(cfg(**settings, async_states=False)).async_states


def notes(settings: TrainingConfig) -> str:
    return "\n".join(resolve_resources(settings).notes)


@pytest.mark.parametrize(
    ("gpus", "launcher", "ranks"),
    [
        ((), LauncherConfig(), 1),
        ((), LauncherConfig(procs_per_worker=3), 3),
        ((H200,) * 4, LauncherConfig(), 4),
        ((H200,) * 4, LauncherConfig(gpus_per_worker=2), 2),
        ((H200,) * 4, LauncherConfig(gpus_per_worker=2, procs_per_worker=1), 1),
        ((H200,) * 4, LauncherConfig(gpus_per_worker=0), 1),
        ((H200,) * 4, LauncherConfig(gpus_per_worker=0, procs_per_worker=3), 3),
        ((H200,), LauncherConfig(procs_per_worker=2), 1),  # NCCL takes one rank per GPU
        ((H200,) * 4, LauncherConfig(gpus_per_worker=2, procs_per_worker=3), 2),
    ],
)
def test_ranks_are_as_many_as_asked_for_or_one_per_gpu(
    gpus: tuple[str, ...], launcher: LauncherConfig, ranks: int, on: Any
) -> None:
    on(*gpus)
    assert resolve_resources(cfg(launcher=launcher)).num_processes == ranks


@pytest.mark.parametrize(
    ("gpus", "settings", "longest", "budget"),
    [
        ((), {}, 0, 2048),
        ((), {}, 3000, 3000),
        ((), {"max_seq_len": 2500}, 3000, 2500),  # longer samples were refused
        ((H200,), {}, 3000, 10_000),
        ((H200,), {"max_seq_len": 20_000}, 12_000, 12_000),
        ((), {"max_tokens_per_gpu": 77}, 50, 77),
    ],
)
def test_an_automatic_token_budget_is_the_machines_and_holds_every_sample(
    gpus: tuple[str, ...], settings: dict[str, int], longest: int, budget: int, on: Any
) -> None:
    on(*gpus)
    assert resolve_resources(cfg(**settings)).token_budget(longest) == budget


@pytest.mark.parametrize("strategy", ShardingStrategy)
def test_one_rank_does_not_shard(strategy: ShardingStrategy, on: Any) -> None:
    on()
    found = resolve_resources(cfg(fsdp=FsdpConfig(sharding_strategy=strategy)))
    assert found.strategy is ShardingStrategy.NO_SHARD
    assert bool(found.notes) == (strategy is not ShardingStrategy.NO_SHARD)


@pytest.mark.parametrize("strategy", ShardingStrategy)
def test_hybrid_sharding_on_one_node_is_full_sharding_and_the_rest_is_as_asked(
    strategy: ShardingStrategy, on: Any
) -> None:
    on(H200, H200, packages=("flash_attn",))
    found = resolve_resources(cfg(fsdp=FsdpConfig(sharding_strategy=strategy)))
    hybrid = strategy is ShardingStrategy.HYBRID_SHARD
    assert found.strategy is (ShardingStrategy.FULL_SHARD if hybrid else strategy)
    assert bool(found.notes) == hybrid


def test_gpus_that_are_not_there_are_missed(on: Any) -> None:
    on()
    wanted = cfg(
        launcher=LauncherConfig(gpus_per_worker=4), fsdp=FsdpConfig(sharding_strategy=ShardingStrategy.NO_SHARD)
    )
    assert notes(wanted) == "training.launcher.gpus_per_worker=4: 0 are here; trains on the CPU"
    on(H200, packages=("flash_attn",))
    assert notes(wanted) == "training.launcher.gpus_per_worker=4: 1 are here; trains on 1"


def test_no_gpu_is_used_where_none_is_asked_for(on: Any) -> None:
    on(H200)
    found = resolve_resources(
        cfg(launcher=LauncherConfig(gpus_per_worker=0)), CpuPrecision(precision=Precision.fp32, reason="timed")
    )
    assert (found.device, found.num_gpus, found.precision) == ("cpu", 0, Precision.fp32)
    assert found.reasons["device"] == "training.launcher.gpus_per_worker=0"


def test_ranks_that_have_no_gpu_are_left_out_and_that_is_said(on: Any) -> None:
    on(H200, packages=("flash_attn",))
    said = notes(cfg(launcher=LauncherConfig(procs_per_worker=2)))
    assert said == "training.launcher.procs_per_worker=2: NCCL takes one rank per GPU, and 1 GPU trains; ranks: 1\n" + (
        "training.fsdp.sharding_strategy=FULL_SHARD: one rank has nothing to shard over; NO_SHARD"
    )


def test_a_driver_that_fails_is_said(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on()
    monkeypatch.setattr(machine, "gpu_trouble", lambda: "couldn't communicate with the NVIDIA driver")
    assert "nvidia-smi fails here, so this machine is taken to have no GPU: couldn't communicate" in notes(cfg())
    assert "nvidia-smi" not in notes(cfg(launcher=LauncherConfig(gpus_per_worker=0)))


@pytest.mark.parametrize("wanted", [Attention.auto, Attention.flash_attention])
def test_flash_attention_is_not_used_in_fp32(wanted: Attention, on: Any) -> None:
    on(H200, packages=("flash_attn",))
    found = resolve_resources(cfg(precision=Precision.fp32, attention=wanted))
    assert found.attention is Attention.varlen
    assert "flash attention computes in bf16, and this training in fp32" in "\n".join(
        (*found.notes, *found.reasons.values())
    )
    assert resolve_resources(cfg(attention=wanted)).attention is Attention.flash_attention


@pytest.mark.parametrize("gpus", [(), (H200,)])
def test_rows_are_packed_wherever_flash_attention_is_not_and_a_choice_is_kept(gpus: tuple[str, ...], on: Any) -> None:
    on(*gpus)
    found = resolve_resources(cfg())
    assert found.attention is Attention.varlen
    lacking = "flash-attn is not installed" if gpus else "no GPU, so no flash attention"
    how = "by its kernel" if gpus else "sample by sample"
    assert found.reasons["attention"] == f"torch's own over packed rows, {how}: {lacking}"
    assert lacking in notes(cfg(attention=Attention.flash_attention))
    for wanted in (Attention.sdpa, Attention.varlen):
        kept = resolve_resources(cfg(attention=wanted))
        assert kept.attention is wanted
        assert "attention" not in kept.reasons


def test_a_gpu_without_the_kernel_for_packed_rows_takes_them_sample_by_sample(on: Any) -> None:
    on(H200, capability=(7, 5))
    assert ", sample by sample:" in resolve_resources(cfg(precision=Precision.bf16)).reasons["attention"]
    on(H200)
    assert ", sample by sample:" in resolve_resources(cfg(precision=Precision.fp32)).reasons["attention"]


def test_pods_pack_rows_too_and_flash_attention_is_theirs_if_it_is_asked_for() -> None:
    launcher = LauncherConfig(kind=LauncherKind.kubeflow, gpus_per_worker=1)
    found = resolve_resources(cfg(launcher=launcher))
    assert found.attention is Attention.varlen
    assert "the image's packages are not known here" in found.reasons["attention"]
    asked = resolve_resources(cfg(launcher=launcher, attention=Attention.flash_attention))
    assert asked.attention is Attention.flash_attention
    assert "training.launcher.image must have flash-attn" in "\n".join(asked.notes)


def test_deterministic_kernels_and_their_cost_are_said(on: Any) -> None:
    on()
    assert "costs no time" in notes(cfg(deterministic=True))
    on(H200, packages=("flash_attn", "liger_kernel"))
    assert "flash-attn's deterministic backward pass" in notes(cfg(deterministic=True))
    found = resolve_resources(cfg(deterministic=True, use_liger=True, attention=Attention.sdpa))
    assert not found.use_liger
    assert "torch's deterministic backward passes of attention" in "\n".join(found.notes)


def test_offloading_without_a_gpu_is_left_out(on: Any) -> None:
    on()
    found = resolve_resources(cfg(fsdp=FsdpConfig(cpu_offload_params=True)))
    assert not found.cpu_offload_params
    assert any("host memory anyway" in note for note in found.notes)
    on(H200)
    assert resolve_resources(cfg(fsdp=FsdpConfig(cpu_offload_params=True))).cpu_offload_params


def test_liger_is_used_only_where_it_runs(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on()
    assert not resolve_resources(cfg(use_liger=True)).use_liger
    assert "it needs a GPU" in notes(cfg(use_liger=True))
    on(H200)
    assert "liger-kernel is not installed" in notes(cfg(use_liger=True))
    on(H200, packages=("liger_kernel",))
    assert resolve_resources(cfg(use_liger=True)).use_liger
    monkeypatch.setattr(machine, "c_compiler", lambda: None)
    assert not resolve_resources(cfg(use_liger=True)).use_liger
    assert "Triton builds its launcher with a C compiler" in notes(cfg(use_liger=True))


@pytest.mark.parametrize(
    ("gpus", "lacks", "named"),
    [
        ((), {"cpp_compiler": None}, "no C++ compiler"),
        ((), {"python_headers": None}, "Python.h"),
        ((), {"c_compiler": None}, ""),
        ((H200,), {"c_compiler": None}, "no C compiler"),
        ((H200,), {"compute_capability": (6, 1)}, "needs compute capability 7.0, this GPU's is 6.1"),
        ((H200,), {"cpp_compiler": None}, ""),
    ],
)
def test_what_compiling_needs_and_is_not_here_is_named(
    gpus: tuple[str, ...], lacks: dict[str, Any], named: str, on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(*gpus, packages=("triton",))
    for name in ("cpp_compiler", "python_headers"):
        monkeypatch.setattr(machine, name, lambda: "there")
    assert missing_for_compiling(on_gpu=bool(gpus)) == ""
    for name, value in lacks.items():
        monkeypatch.setattr(machine, name, lambda value=value: value)
    assert (named or "nothing") in (missing_for_compiling(on_gpu=bool(gpus)) or "nothing")
    assert resolve_resources(cfg(compile=Compile.regional)).compile is Compile.regional


def test_triton_is_missed_on_a_gpu_alone(on: Any) -> None:
    on(H200)
    assert "Triton is not installed" in missing_for_compiling(on_gpu=True)
    assert "Triton" not in missing_for_compiling(on_gpu=False)


@pytest.mark.parametrize(("gpus", "needed"), [(0, "a C++ compiler"), (2, "Triton and a C compiler")])
def test_what_an_image_needs_to_compile_is_said(gpus: int, needed: str) -> None:
    launcher = LauncherConfig(kind=LauncherKind.kubeflow, gpus_per_worker=gpus)
    assert f"image must have {needed}" in notes(cfg(compile=Compile.regional, launcher=launcher))


def test_what_is_slow_here_is_said(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_computes_bf16", lambda: False)
    on()
    assert "this CPU emulates it" in notes(cfg(precision=Precision.bf16))
    on(H200, capability=(7, 5), packages=("flash_attn",))
    assert "this GPU emulates it" in notes(cfg(precision=Precision.bf16))
    assert "not 7.5" in resolve_resources(cfg()).reasons["attention"]


def several(nodes: int, strategy: ShardingStrategy, **launcher: Any) -> TrainingConfig:
    launcher = {"node_rank": 0, "rendezvous": "a:1", **launcher}
    return cfg(fsdp=FsdpConfig(sharding_strategy=strategy), launcher=LauncherConfig(num_workers=nodes, **launcher))


@pytest.mark.parametrize(
    ("gpus", "strategy"),
    [
        ((H200, H200), ShardingStrategy.HYBRID_SHARD),
        ((H200,), ShardingStrategy.NO_SHARD),  # torch would never reduce a gradient
        ((), ShardingStrategy.NO_SHARD),
    ],
)
def test_hybrid_sharding_over_nodes_reaches_torch_only_where_a_node_has_several_gpus(
    gpus: tuple[str, ...], strategy: ShardingStrategy, on: Any
) -> None:
    on(*gpus, packages=("flash_attn",))
    found = resolve_resources(several(3, ShardingStrategy.HYBRID_SHARD))
    assert found.strategy is strategy
    assert found.world_size == 3 * max(1, len(gpus))
    assert bool(found.notes) == (strategy is not ShardingStrategy.HYBRID_SHARD)


def test_a_node_is_told_by_the_recipe_or_by_the_environment(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on()
    recipe = several(2, ShardingStrategy.FULL_SHARD, node_rank=1, rendezvous="first:29500")
    assert resolve_resources(recipe).nodes == Nodes(num=2, rank=1, rendezvous="first:29500")
    blank = several(2, ShardingStrategy.FULL_SHARD, node_rank=None, rendezvous=None)
    with pytest.raises(ConfigError) as caught:
        resolve_resources(blank)
    assert [problem.key for problem in caught.value.problems] == [
        "training.launcher.rendezvous",
        "training.launcher.node_rank",
    ]
    for name, value in {"NODE_RANK": "1", "MASTER_ADDR": "job-0", "MASTER_PORT": "29400"}.items():
        monkeypatch.setenv(f"PET_{name}", value)
    assert resolve_resources(blank).nodes == Nodes(num=2, rank=1, rendezvous="job-0:29400")


POD = LauncherConfig(kind=LauncherKind.kubeflow, num_workers=4, gpus_per_worker=2)


def test_a_trainjobs_ranks_and_device_come_from_the_configuration_alone(on: Any) -> None:
    on()
    found = resolve_resources(cfg(launcher=POD))
    assert (found.num_processes, found.world_size, found.nodes.rank) == (2, 8, 0)
    assert resolve_resources(cfg(launcher=POD)).device == "kubeflow-gpu"
    assert resolve_resources(cfg(launcher=POD)).token_budget(0) == 10_000


def test_a_trainjob_without_gpus_is_one_of_cpus_whatever_this_machine_has(on: Any) -> None:
    on(H200)
    launcher = replace(POD, gpus_per_worker=0)
    assert resolve_resources(cfg(launcher=launcher)).world_size == 4
    assert resolve_resources(cfg(launcher=launcher)).device == "cpu"
    assert resolve_resources(cfg(launcher=launcher)).token_budget(0) == 2048


def test_a_trainjob_shards_inside_its_pods_where_they_have_gpus(on: Any) -> None:
    on()
    hybrid = FsdpConfig(sharding_strategy=ShardingStrategy.HYBRID_SHARD)
    assert resolve_resources(cfg(launcher=POD, fsdp=hybrid)).strategy is ShardingStrategy.HYBRID_SHARD
    one = replace(POD, gpus_per_worker=1)
    assert resolve_resources(cfg(launcher=one, fsdp=hybrid)).strategy is ShardingStrategy.NO_SHARD


def test_what_an_image_must_have_is_said(on: Any) -> None:
    on()
    assert "training.launcher.image must have liger-kernel" in notes(cfg(launcher=POD, use_liger=True))


def test_ranks_of_a_trainjob_are_not_those_of_the_pod_that_asks_for_it(
    on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on()
    monkeypatch.setenv("PET_NODE_RANK", "3")
    assert resolve_resources(cfg(launcher=POD)).nodes.rank == 0
