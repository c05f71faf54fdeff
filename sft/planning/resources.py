"""What a training asks of the machine, and what it gets where the machine can't do that.

Nothing of it is silent: `Fit.notes` says each difference, at plan time and while the run works.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from sft.adapters.instructlab.settings import Nodes
from sft.adapters.os import machine
from sft.config.launcher_checks import num_processes
from sft.config.schema import LauncherConfig, LauncherKind, Precision, ShardingStrategy, TrainingConfig
from sft.errors import ConfigError, Problem

_GPU_TOKENS, _CPU_TOKENS = 10_000, 2048


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a training runs, on this machine or in the pods of a TrainJob.

    Attributes:
        num_processes: Ranks on one machine.
        nodes: The machines that train together, and which one this is.
        strategy: FSDP's.
        cpu_offload_params: Whether parameters wait in host memory.
        use_liger: Whether Liger's kernels are used.
        notes: What is done differently from what the recipe says, or slower than it could be; a line each.
    """

    num_processes: int
    nodes: Nodes
    strategy: ShardingStrategy
    cpu_offload_params: bool
    use_liger: bool
    notes: tuple[str, ...]

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.nodes.num * self.num_processes


def fit(cfg: TrainingConfig) -> Fit:
    """How `cfg` runs. Looks at the driver, installed packages and ``PET_*``; imports nothing heavy.

    Raises:
        ConfigError: It is not said where the other nodes are, or which one this is.
    """
    return _fit_pods(cfg) if cfg.launcher.kind is LauncherKind.kubeflow else _fit_here(cfg)


def num_gpus(cfg: LauncherConfig) -> int:
    """GPUs of a machine that trains: what a TrainJob asks for, or what is here."""
    return (cfg.gpus_per_worker or 0) if cfg.kind is LauncherKind.kubeflow else len(machine.gpus())


def device(cfg: LauncherConfig) -> str:
    """What trains: ``cpu``, the first GPU's name, or, of a TrainJob, that it is some GPU of the cluster."""
    if cfg.kind is LauncherKind.torchrun:
        return machine.device()
    return "kubeflow-gpu" if num_gpus(cfg) else "cpu"


def _fit_pods(cfg: TrainingConfig) -> Fit:
    """Of a TrainJob only what the configuration says is known; its pods' machines and packages are not."""
    launcher, notes = cfg.launcher, list[str]()
    gpus, processes = num_gpus(launcher), num_processes(launcher)
    offload = cfg.fsdp.cpu_offload_params and bool(gpus)
    if cfg.fsdp.cpu_offload_params and not gpus:
        notes.append("training.fsdp.cpu_offload_params=true: without a GPU, parameters are in host memory anyway")
    liger = cfg.use_liger and bool(gpus)
    if cfg.use_liger:
        notes.append(
            "training.use_liger=true: training.launcher.image must have liger-kernel (EXTRAS=liger)"
            if gpus
            else "training.use_liger=true: it needs a GPU; trains without"
        )
    return Fit(
        num_processes=processes,
        nodes=Nodes(num=launcher.num_workers),
        strategy=_strategy(cfg, launcher.num_workers, processes, notes, on_gpu=bool(gpus)),
        cpu_offload_params=offload,
        use_liger=liger,
        notes=tuple(notes),
    )


def _fit_here(cfg: TrainingConfig) -> Fit:
    gpus = machine.gpus()
    notes: list[str] = []
    wanted = cfg.launcher.gpus_per_worker
    if wanted is not None and wanted > len(gpus):
        instead = f"trains on {len(gpus)}" if gpus else "trains on the CPU"
        notes.append(f"training.launcher.gpus_per_worker={wanted}: {len(gpus)} are here; {instead}")
    used = len(gpus) if wanted is None else min(wanted, len(gpus))
    processes = cfg.launcher.procs_per_worker or max(1, used)
    if gpus and processes > len(gpus):
        notes.append(f"training.launcher.procs_per_worker={processes}: more than the {len(gpus)} GPUs; NCCL refuses")
    nodes = _nodes(cfg.launcher)
    strategy = _strategy(cfg, nodes.num, processes, notes, on_gpu=bool(gpus))
    offload = cfg.fsdp.cpu_offload_params and bool(gpus)
    if cfg.fsdp.cpu_offload_params and not gpus:
        notes.append("training.fsdp.cpu_offload_params=true: without a GPU, parameters are in host memory anyway")
    liger = cfg.use_liger and machine.runs_liger()
    if cfg.use_liger and not liger:
        lacking = "liger-kernel is not installed (pip install 'sft[liger]')" if gpus else "it needs a GPU"
        notes.append(f"training.use_liger=true: {lacking}; trains without")
    if gpus:
        _gpu_notes(cfg, notes)
    elif cfg.precision is Precision.bf16 and not machine.cpu_computes_bf16():
        notes.append("training.precision=bf16: this CPU emulates it, slowly; auto takes fp32")
    return Fit(
        num_processes=processes,
        nodes=nodes,
        strategy=strategy,
        cpu_offload_params=offload,
        use_liger=liger,
        notes=tuple(notes),
    )


def max_tokens(cfg: TrainingConfig, longest_sample: int) -> int:
    """The token budget of a minibatch on one rank.

    A GPU wants large minibatches. A CPU is as fast with small ones (benchmarks/RESULTS.md).

    Args:
        cfg: The training settings.
        longest_sample: Tokens of the longest sample, refused ones included; 0 = not known yet.
    """
    if cfg.max_tokens_per_gpu is not None:
        return cfg.max_tokens_per_gpu
    return max(_GPU_TOKENS if num_gpus(cfg.launcher) else _CPU_TOKENS, min(longest_sample, cfg.max_seq_len))


def _strategy(
    cfg: TrainingConfig, num_nodes: int, num_ranks: int, notes: list[str], *, on_gpu: bool
) -> ShardingStrategy:
    """The sharding strategy that does what the recipe's name promises.

    FSDP1 finds a node's size by counting CUDA devices (torch/distributed/fsdp/_init_utils.py). With one or none per
    node, HYBRID_SHARD makes shard groups of one rank, switches to NO_SHARD inside them, and never reduces a gradient
    over the ranks: each trains a model of its own. So HYBRID_SHARD reaches torch only where it can do more.
    """
    wanted = cfg.fsdp.sharding_strategy
    if num_nodes * num_ranks == 1:
        instead, why = ShardingStrategy.NO_SHARD, "one rank has nothing to shard over"
    elif wanted is not ShardingStrategy.HYBRID_SHARD:
        return wanted
    elif num_nodes == 1:
        instead, why = ShardingStrategy.FULL_SHARD, "on one node it is the same as FULL_SHARD"
    elif num_ranks == 1:
        instead, why = ShardingStrategy.NO_SHARD, "with one rank on each node it is the same as NO_SHARD"
    elif not on_gpu:
        instead, why = ShardingStrategy.FULL_SHARD, "torch shards inside a node only on GPUs"
    else:
        return wanted
    if instead is not wanted:
        notes.append(f"training.fsdp.sharding_strategy={wanted.value}: {why}; {instead.value}")
    return instead


def _nodes(cfg: LauncherConfig) -> Nodes:
    if cfg.num_workers == 1:
        return Nodes()
    address, port = os.environ.get("PET_MASTER_ADDR"), os.environ.get("PET_MASTER_PORT")
    rendezvous = cfg.rendezvous or (f"{address}:{port}" if address and port else None)
    rank = cfg.node_rank if cfg.node_rank is not None else os.environ.get("PET_NODE_RANK")
    rule = f"is needed with training.launcher.num_workers={cfg.num_workers}"
    problems = []
    if rendezvous is None:
        suggestion = "host:port of node 0, or PET_MASTER_ADDR and PET_MASTER_PORT in the environment"
        problems.append(Problem(key="training.launcher.rendezvous", rule=rule, suggestion=suggestion))
    if rank is None:
        suggestion = "0 on the first node, 1 on the second; or PET_NODE_RANK in the environment"
        problems.append(Problem(key="training.launcher.node_rank", rule=rule, suggestion=suggestion))
    if rendezvous is None or rank is None:
        raise ConfigError(problems)
    return Nodes(num=cfg.num_workers, rank=int(rank), rendezvous=rendezvous)


def _gpu_notes(cfg: TrainingConfig, notes: list[str]) -> None:
    major, minor = machine.compute_capability()
    if cfg.precision is Precision.bf16 and major < 8:
        notes.append("training.precision=bf16: this GPU emulates it, slowly; auto takes fp32")
    if importlib.util.find_spec("flash_attn") is None:
        notes.append("flash-attn is not installed: samples are padded to the longest of their minibatch")
    elif not (major == 8 or (major, minor) == (9, 0)):
        notes.append(
            f"flash attention: instructlab-training knows compute capability 8.x and 9.0, not {major}.{minor}; "
            "samples are padded to the longest of their minibatch"
        )
