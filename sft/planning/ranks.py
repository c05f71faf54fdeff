"""Which ranks a training has: on what device, how many on each node, and how they share the model and its rows."""

from __future__ import annotations

import os

from sft.adapters.instructlab.settings import Nodes
from sft.adapters.os import machine
from sft.config.launcher_checks import undivided_ranks
from sft.config.schema import LauncherConfig, ShardingStrategy, TrainingConfig
from sft.errors import ConfigError, Problem
from sft.planning.choices import Choices


def nodes_of(cfg: LauncherConfig) -> Nodes:
    """Return the machines that train together, from the settings and ``PET_*``.

    Raises:
        ConfigError: A node of several is not told where node 0 is, or which one it is.
    """
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


def device_of(launcher: LauncherConfig, gpus: int, choices: Choices) -> str:
    """Return what computes: ``cpu``, the first GPU's name, or, of a TrainJob, ``kubeflow-gpu``."""
    if launcher.is_remote:
        choices.because("device", f"training.launcher.gpus_per_worker={gpus} of the cluster")
        return "kubeflow-gpu" if gpus else "cpu"
    if gpus:
        choices.because("device", "this machine's first GPU")
        return machine.device()
    trouble = "" if launcher.gpus_per_worker == 0 else machine.gpu_trouble()
    why = "training.launcher.gpus_per_worker=0" if launcher.gpus_per_worker == 0 else "this machine has no GPU"
    if trouble:
        why = "nvidia-smi fails here"
        choices.notes.append(f"{why}, so this machine is taken to have no GPU: {trouble}")
    choices.because("device", why)
    return "cpu"


def ranks_here(cfg: LauncherConfig, gpus: int, choices: Choices) -> int:
    """Return the number of ranks on this machine, noting where it is not what the recipe says."""
    wanted = cfg.gpus_per_worker
    if wanted is not None and wanted > gpus:
        instead = f"trains on {gpus}" if gpus else "trains on the CPU"
        choices.notes.append(f"training.launcher.gpus_per_worker={wanted}: {gpus} are here; {instead}")
    asked = cfg.procs_per_worker
    if asked and gpus and asked > gpus:
        here = "1 GPU trains" if gpus == 1 else f"{gpus} GPUs train"
        setting = f"training.launcher.procs_per_worker={asked}"
        choices.instead("num_processes", setting, f"NCCL takes one rank per GPU, and {here}", f"ranks: {gpus}")
        return gpus
    if asked:
        return asked
    choices.because("num_processes", "one per GPU" if gpus else "one on a machine without a GPU")
    return max(1, gpus)


def check_shared_rows(size: int, num_nodes: int, num_ranks: int, choices: Choices) -> None:
    """Refuse a number of ranks for a row that does not divide all of them; note where they are of several nodes.

    Raises:
        ConfigError: It doesn't.
    """
    if problem := undivided_ranks(size, num_nodes * num_ranks):
        raise ConfigError([problem])
    if size > 1 and num_ranks % size:
        what = "what its layers exchange around attention crosses the network between them"
        choices.notes.append(f"training.context_parallel={size}: ranks of several nodes share a row; {what}")


def strategy_of(
    cfg: TrainingConfig, num_nodes: int, num_ranks: int, choices: Choices, *, on_gpu: bool
) -> ShardingStrategy:
    """Return the sharding strategy that does what the recipe's name promises.

    FSDP1 finds a node's size by counting CUDA devices (torch/distributed/fsdp/_init_utils.py). With one or none per
    node, HYBRID_SHARD makes shard groups of one rank, switches to NO_SHARD inside them, and never reduces a gradient
    over the ranks: each trains a model of its own. So HYBRID_SHARD reaches torch only where it can do more. FSDP2 is
    told which ranks are on a node, and needs no GPUs for it.
    """
    wanted = cfg.fsdp.sharding_strategy
    if num_nodes * num_ranks == 1:
        strategy, why = ShardingStrategy.NO_SHARD, "one rank has nothing to shard over"
    elif wanted is not ShardingStrategy.HYBRID_SHARD:
        return wanted
    elif num_nodes == 1:
        strategy, why = ShardingStrategy.FULL_SHARD, "on one node it is the same as FULL_SHARD"
    elif num_ranks == 1:
        strategy, why = ShardingStrategy.NO_SHARD, "with one rank on each node it is the same as NO_SHARD"
    elif cfg.fsdp.version == 1 and not on_gpu:
        strategy, why = ShardingStrategy.FULL_SHARD, "FSDP1 shards inside a node only on GPUs"
    else:
        return wanted
    if strategy is not wanted:
        choices.instead("strategy", f"training.fsdp.sharding_strategy={wanted.value}", why, strategy.value)
    return strategy
