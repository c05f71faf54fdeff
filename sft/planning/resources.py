"""Decide once what a training runs on and with: ranks, strategy, precision, token budget, kernels.

`resources_of` is the only place that turns ``auto`` and null into values and replaces what a machine can't do. The
stage's key, the run's record, ``sft plan``, the launcher, a TrainJob and the model card all read its result, so that a
key can't stand for different work on another machine. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sft.adapters.instructlab.settings import Nodes
from sft.config.schema import (
    Attention,
    Compile,
    GradientCheckpointing,
    Precision,
    RunConfig,
    ShardingStrategy,
    TrainingConfig,
)
from sft.planning.choices import Choices
from sft.planning.context_parallel import check_model
from sft.planning.copied_states import too_large_copies
from sft.planning.devices import num_gpus
from sft.planning.kernels import note_deterministic, note_quantized, resolve_attention, resolve_compile, resolve_liger
from sft.planning.model_config import fetch_model_config
from sft.planning.precision import CPU_TOKENS, CpuPrecision, choose_cpu_precision, resolve_precision
from sft.planning.ranks import check_shared_rows, device_of, nodes_of, ranks_here, strategy_of
from sft.planning.recomputation import choose_recomputation

_GPU_TOKENS = 10_000
_GPU_LOADER_WORKERS = 2

NOT_IN_THE_WEIGHTS = {"num_loader_workers", "async_states"}
"""Resources that say how a result is got, not what it is."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a training runs on and with, on this machine or in the pods of a TrainJob.

    Attributes:
        device: ``cpu``, the first GPU's name, or, of a TrainJob, ``kubeflow-gpu``.
        num_gpus: GPUs of one machine that may be used; 0 = trains on the CPU.
        num_processes: Ranks on one machine.
        nodes: The machines that train together, and which of them this one is.
        context_parallel: Ranks that share the tokens of a row.
        fsdp_version: Of PyTorch's FSDP, 1 or 2.
        strategy: FSDP's sharding strategy.
        cpu_offload_params: Whether parameters wait in host memory.
        precision: Arithmetic of forward and backward: bf16 or fp32, never auto.
        base_token_budget: Tokens of one minibatch on one rank, padding included, unless a sample is longer; of a row
            that ranks share those of a rank's part.
        token_budget_is_set: Whether the recipe says it; then `training.max_seq_len` is at most a row's.
        max_seq_len: Samples of so many tokens or more are not trained.
        attention: Never auto.
        use_liger: Whether Liger's kernels are used.
        compile: What of the model is compiled.
        gradient_checkpointing: Which layers recompute their activations in the backward pass; never auto.
        num_loader_workers: Data loader processes per rank.
        async_states: Whether the training goes on while a full state is written.
        reasons: Why each of these is what it is, by its name; of those that the recipe does not say literally.
        notes: What is done differently from what the recipe says, or slower than it could be; a line each.
    """

    device: str
    num_gpus: int
    num_processes: int
    nodes: Nodes
    fsdp_version: int
    strategy: ShardingStrategy
    cpu_offload_params: bool
    precision: Precision
    base_token_budget: int
    token_budget_is_set: bool
    max_seq_len: int
    attention: Attention
    use_liger: bool
    compile: Compile
    gradient_checkpointing: GradientCheckpointing
    num_loader_workers: int
    async_states: bool
    reasons: Mapping[str, str]
    context_parallel: int = 1
    notes: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.nodes.num * self.num_processes

    @property
    def num_sharing_batch(self) -> int:
        """Ranks, or groups of ranks that share rows, between which a batch is divided."""
        return self.world_size // self.context_parallel

    def row_budget(self, longest_tokens: int) -> int:
        """Return the token budget of a minibatch, whichever ranks share it. Argument as of `token_budget`."""
        return self.context_parallel * self.token_budget(longest_tokens)

    def token_budget(self, longest_tokens: int) -> int:
        """Return the token budget of a minibatch on one rank, or of its part of one.

        Args:
            longest_tokens: Length of the longest sample, refused ones included; 0 = not known yet.
        """
        if self.token_budget_is_set:
            return self.base_token_budget
        return max(self.base_token_budget, -(-min(longest_tokens, self.max_seq_len) // self.context_parallel))

    def settings(self) -> dict[str, Any]:
        """Return each resource by its name as plain data, in the order in which a plan shows them."""
        return {
            "device": self.device,
            "num_nodes": self.nodes.num,
            "num_processes": self.num_processes,
            "fsdp_version": self.fsdp_version,
            "strategy": self.strategy.value,
            "cpu_offload_params": self.cpu_offload_params,
            "precision": self.precision.value,
            "token_budget": self.base_token_budget,
            "attention": self.attention.value,
            "use_liger": self.use_liger,
            "compile": self.compile.value,
            "gradient_checkpointing": self.gradient_checkpointing.value,
            "num_loader_workers": self.num_loader_workers,
            "async_states": self.async_states,
            **({"context_parallel": self.context_parallel} if self.context_parallel > 1 else {}),
        }

    def explained(self) -> dict[str, dict[str, Any]]:
        """Return value and reason of each resource by its name, as a record keeps them."""
        return {
            name: {"value": value, "reason": self.reasons.get(name, "as the recipe says")}
            for name, value in self.settings().items()
        }


def resources_of(cfg: RunConfig) -> Resources:
    """Return what a run trains on and with; on a CPU `choose_cpu_precision` may time it first.

    Raises:
        ConfigError: As `resolve_resources`, or the model's rows can't be shared by `training.context_parallel` ranks.
        DataError: The model's config is on the hub and can't be fetched.
        SftError: As `choose_cpu_precision`.
    """
    resources = resolve_resources(cfg.training, choose_cpu_precision(cfg))
    if resources.context_parallel > 1:
        check_model(fetch_model_config(cfg.model) or {}, resources.context_parallel)
    if cfg.training.gradient_checkpointing is GradientCheckpointing.auto:
        mode, reason = choose_recomputation(cfg, resources)
        reasons = {**resources.reasons, "gradient_checkpointing": reason}
        resources = replace(resources, gradient_checkpointing=mode, reasons=reasons)
    if not (resources.async_states and resources.num_gpus) or (why := too_large_copies(cfg, resources)) is None:
        return resources
    note = f"training.async_states=true: {why}; ranks wait while a full state is written"
    reasons = {**resources.reasons, "async_states": why}
    return replace(resources, async_states=False, reasons=reasons, notes=(*resources.notes, note))


def resolve_resources(cfg: TrainingConfig, on_cpu: CpuPrecision | None = None) -> Resources:
    """Return what `cfg` trains on and with.

    Looks at the driver, installed packages and ``PET_*``. Of a TrainJob only what the configuration says is known: its
    pods' machines and packages are not.

    Args:
        cfg: The training settings.
        on_cpu: The precision on this machine's CPU where it is not set; None = fp32, for callers to whom it is one.

    Raises:
        ConfigError: A node of several is not told where node 0 is, or which one it is; or `training.context_parallel`
            does not divide the ranks.
    """
    launcher, choices = cfg.launcher, Choices()
    remote = launcher.is_remote
    gpus = num_gpus(launcher)
    nodes = Nodes(num=launcher.num_workers) if remote else nodes_of(launcher)
    ranks = launcher.num_processes if remote else ranks_here(launcher, gpus, choices)
    check_shared_rows(cfg.context_parallel, nodes.num, ranks, choices)
    precision = resolve_precision(cfg, on_cpu, choices, on_gpu=bool(gpus))
    attention = resolve_attention(cfg, precision, choices, on_gpu=bool(gpus))
    note_deterministic(cfg, attention, choices, on_gpu=bool(gpus))
    note_quantized(cfg, choices)
    return Resources(
        device=device_of(launcher, gpus, choices),
        num_gpus=gpus,
        num_processes=ranks,
        nodes=nodes,
        context_parallel=cfg.context_parallel,
        fsdp_version=cfg.fsdp.version,
        strategy=strategy_of(cfg, nodes.num, ranks, choices, on_gpu=bool(gpus)),
        cpu_offload_params=_offload(cfg, choices, on_gpu=bool(gpus)),
        precision=precision,
        base_token_budget=_token_budget(cfg, choices, on_gpu=bool(gpus)),
        token_budget_is_set=cfg.max_tokens_per_gpu is not None,
        max_seq_len=cfg.max_seq_len,
        attention=attention,
        use_liger=resolve_liger(cfg, choices, on_gpu=bool(gpus)),
        compile=resolve_compile(cfg, choices, on_gpu=bool(gpus)),
        gradient_checkpointing=_recomputation(cfg, choices),
        num_loader_workers=_loader_workers(cfg, choices, on_gpu=bool(gpus)),
        async_states=_async_states(cfg, choices),
        reasons=choices.reasons,
        notes=tuple(choices.notes),
    )


def _offload(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> bool:
    if cfg.fsdp.cpu_offload_params and not on_gpu:
        why = "without a GPU, parameters are in host memory anyway"
        choices.because("cpu_offload_params", why)
        choices.notes.append(f"training.fsdp.cpu_offload_params=true: {why}")
    return cfg.fsdp.cpu_offload_params and on_gpu


def _token_budget(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> int:
    """Return the budget: a GPU wants large minibatches, a CPU is as fast with small ones (benchmarks/RESULTS.md)."""
    if cfg.max_tokens_per_gpu is not None:
        return cfg.max_tokens_per_gpu
    choices.because("token_budget", f"the default of a {'GPU' if on_gpu else 'CPU'}, or more for a longer sample")
    return _GPU_TOKENS if on_gpu else CPU_TOKENS


def _recomputation(cfg: TrainingConfig, choices: Choices) -> GradientCheckpointing:
    """Return which layers recompute; `resources_of`, which knows the model, asks `choose_recomputation` about auto."""
    if cfg.gradient_checkpointing is not GradientCheckpointing.auto:
        return cfg.gradient_checkpointing
    choices.because("gradient_checkpointing", "what the model needs is not known")
    return GradientCheckpointing.full


def _loader_workers(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> int:
    if cfg.num_loader_workers is not None:
        return cfg.num_loader_workers
    choices.because("num_loader_workers", "the default with a GPU" if on_gpu else "the default without a GPU")
    return _GPU_LOADER_WORKERS if on_gpu else 0


def _async_states(cfg: TrainingConfig, choices: Choices) -> bool:
    if not cfg.async_states:
        return False
    if cfg.fsdp.version == 1:
        why = "only FSDP2's states are copied aside"
    elif not cfg.saves_states_on_the_way():
        why = "no full state is saved on the way"
    else:
        return True
    choices.because("async_states", why)
    return False
