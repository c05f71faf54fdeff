"""What of a plan is arithmetic: optimizer steps, memory per rank, bytes of checkpoints. Imports nothing heavy."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sft.adapters.os import machine
from sft.artifacts import Artifact, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.config.k8s_quantity import amount
from sft.config.schema import GradientCheckpointing, RunConfig, SaveDtype, ShardingStrategy, TrainingConfig
from sft.planning import memory
from sft.planning.devices import num_gpus
from sft.planning.kept_models import kept_models
from sft.planning.kernels import quantizes
from sft.planning.memory import Setup
from sft.planning.mixing import Mix
from sft.planning.model_config import read_config, read_model_config
from sft.planning.model_shape import Shape, shape_of
from sft.planning.resources import Resources, resources_of
from sft.planning.step_count import batch_size_of, length_notes, length_of, num_validation_samples
from sft.planning.trained_parameters import chooses, parameter_sizes
from sft.planning.training_setup import setup_of

_GIB = 2**30
_TOLERANCE = 1.15
"""What measured peaks may be beyond the estimate (docs/memory.md)."""
_SAVED_BYTES = {SaveDtype.fp32: 4, SaveDtype.bf16: 2, SaveDtype.fp16: 2}


def steps(cfg: RunConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield how many optimizer steps the training has, once the dataset is there."""
    data = have.get("dataset")
    if not isinstance(data, DatasetArtifact):
        yield "steps      known once the dataset is checked"
        return
    num_samples = _num_samples(cfg, data, _tokenized(have))
    validation = num_validation_samples(cfg.training, num_samples)
    trained = num_samples - validation
    length = length_of(cfg.training, trained)
    of = f"{trained} samples" if not validation else f"{trained} samples, {validation} more to validate on"
    batch = batch_size_of(cfg.training, trained)
    per_epoch = math.ceil(trained / batch)
    epochs = f"x {cfg.training.num_epochs:.12g}" if cfg.training.max_steps is None else "for as many as that takes,"
    chosen = (
        f", {batch} a step (training.effective_batch_size=null)" if cfg.training.effective_batch_size is None else ""
    )
    yield f"steps      {length.num_steps} = {per_epoch} per epoch {epochs} of {of}{chosen}"


def few_steps(cfg: RunConfig, have: Mapping[str, Artifact], num_ranks: int) -> Iterator[str]:
    """Yield that the training has too few steps to teach anything, and what gives more, once its rows are known."""
    data, tokens = have.get("dataset"), _tokenized(have)
    num_samples = tokens.num_samples if tokens else None
    if num_samples is None and isinstance(data, DatasetArtifact):
        num_samples = _num_samples(cfg, data, tokens)
    if num_samples is not None:
        yield from length_notes(cfg.training, num_samples, num_ranks)


def _num_samples(cfg: RunConfig, data: DatasetArtifact, tokens: TokenizedArtifact | None) -> int:
    """Return how many samples an epoch has: those of the mix where there are several sources."""
    mix = Mix.of(cfg.dataset)
    if mix is None:
        return data.num_train
    if tokens:
        return tokens.num_samples
    return sum(mix.counts({name: source["train"] for name, source in data.sources.items()}).values())


def place(cfg: RunConfig) -> Iterator[str]:
    """Yield where the training runs, if that is not here."""
    launcher = cfg.training.launcher
    if launcher.is_remote:
        gpus = num_gpus(launcher)
        each = "1 GPU" if gpus == 1 else f"{gpus} GPUs" if gpus else f"{launcher.pod_cpu} CPUs"
        pods = f"{launcher.num_workers} pods x {each}, {launcher.pod_memory} of memory"
        yield f"trains     in a TrainJob: {pods}, {launcher.image}, runtime {launcher.runtime}"


def memory_per_rank(cfg: RunConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield a line per sharding strategy: what a rank needs, whether it fits, the largest token budget that would."""
    shape = _shape(cfg, have)
    if isinstance(shape, str):
        yield f"memory     {shape}"
        return
    resources = resources_of(cfg)
    setup = setup_of(cfg, resources, shape, _tokenized(have), _sizes(cfg, have))
    available = _available(cfg.training, resources)
    yield f"memory     estimated peak per rank (docs/memory.md), {_where(cfg.training, resources, available)}:"
    for sharding in ShardingStrategy if setup.ranks > 1 else [ShardingStrategy.NO_SHARD]:
        needed = memory.peak_bytes(shape, sharding, setup)
        fits = ""
        if available is not None:
            budget = memory.largest_budget(shape, sharding, setup, available)
            fits = f"  fits, up to {budget:,} tokens" if needed <= available else f"  {_too_much(budget)}"
        chosen = "  <- chosen" if sharding is resources.strategy else ""
        yield f"           {sharding.value:<14}{needed / _GIB:8.1f} GiB{fits}{chosen}"
    if available is not None and memory.peak_bytes(shape, resources.strategy, setup) > available:
        yield f"warning    this can't fit: {_remedy(cfg.training, shape, resources.strategy, setup, available)}"
    state = _size(memory.state_bytes(shape, setup))
    model = _size(memory.model_bytes(shape, _SAVED_BYTES.get(cfg.training.save_dtype)))
    copied = memory.copied_bytes(shape, resources.strategy, setup)
    where = f", of which a rank copies {_size(copied)} to host memory" if copied else ""
    yield f"saves      {model} a model, {state} a full state{where}"
    yield from _kept(cfg, have, shape)


def _kept(cfg: RunConfig, have: Mapping[str, Artifact], shape: Shape) -> Iterator[str]:
    """Yield how many models on the way stay, and what they take."""
    data, training = have.get("dataset"), cfg.training
    num_trained = None
    if isinstance(data, DatasetArtifact):
        num_samples = _num_samples(cfg, data, _tokenized(have))
        num_trained = num_samples - num_validation_samples(training, num_samples)
    number = kept_models(training, num_trained)
    if number:
        each = memory.model_bytes(shape, _SAVED_BYTES.get(training.save_dtype))
        models = "1 model" if number == 1 else f"{number} models"
        chosen = "the newest" if training.checkpoint_limit is not None else "training.checkpoint_limit=null"
        yield f"keeps      up to {models} on the way besides the last, {_size(number * each)} ({chosen})"


def _where(cfg: TrainingConfig, resources: Resources, available: int | None) -> str:
    """Return which memory is meant, and how much of it a rank has."""
    if available is None:
        whose = (
            "the cluster, whose memory is not known here"
            if cfg.launcher.is_remote
            else "this machine, whose memory the driver doesn't say"
        )
        return f"of a GPU of {whose}"
    gib, in_pods = f"{available / _GIB:.1f} GiB", cfg.launcher.is_remote
    if resources.num_gpus:
        return f"{gib} free of a GPU's {machine.gpu_total_bytes() / _GIB:.1f}"
    return f"{gib} of {'a pod' if in_pods else 'this machine'} for each of {resources.num_processes}"


def why_too_large(cfg: RunConfig, num_at_once: int = 1) -> str | None:
    """Return why a training can't fit by the estimate; None if it fits, or if that is not known yet.

    On several machines without GPUs it is not known: each has other memory to spare, and all must judge alike.

    Args:
        cfg: A checked configuration.
        num_at_once: Runs that share this machine's memory.
    """
    shape, in_pods = _shape(cfg, {}), cfg.training.launcher.is_remote
    if isinstance(shape, str):
        return None
    resources = resources_of(cfg)
    if resources.nodes.num > 1 and not in_pods and not resources.num_gpus:
        return None
    setup, sharding = setup_of(cfg, resources, shape, None, _sizes(cfg, {})), resources.strategy
    available = _available(cfg.training, resources)
    if available is None:
        return None
    available //= 1 if setup.on_gpu or in_pods else num_at_once
    needed = memory.peak_bytes(shape, sharding, setup)
    if needed <= available:
        return None
    remedy = _remedy(cfg.training, shape, sharding, setup, available)
    return f"needs {needed / _GIB:.1f} GiB per rank by the estimate, there are {available / _GIB:.1f}; {remedy}"


def missing_gpu_memory(cfg: RunConfig, resources: Resources) -> str | None:
    """Return by how much a training is too large for what is free on its GPU; None if it may fit, or isn't known.

    The estimate may be off by `_TOLERANCE`, so only what is beyond that counts.
    """
    shape = _shape(cfg, {})
    available = _available(cfg.training, resources) if resources.num_gpus else None
    if isinstance(shape, str) or available is None:
        return None
    setup = setup_of(cfg, resources, shape, None, _sizes(cfg, {}))
    if tokens_unknown := not resources.token_budget_is_set:
        setup = replace(setup, loss_share=0.0)  # how many tokens count for the loss is not known yet
    needed = memory.peak_bytes(shape, resources.strategy, setup)
    if needed <= available * _TOLERANCE:
        return None
    least = "at least " if tokens_unknown else ""
    free = f"{available / _GIB:.1f} GiB are free of the GPU's {machine.gpu_total_bytes() / _GIB:.1f}"
    return f"a rank needs {least}{needed / _GIB:.1f} GiB by the estimate, and {free}"


def disk(cfg: RunConfig) -> Iterator[str]:
    """Yield how much a training writes into the run root, beside what is free there."""
    needed = None if cfg.training.launcher.is_remote else disk_bytes(cfg, resources_of(cfg))
    if needed is not None:
        yield f"disk       up to {_size(needed)} of full states and models; {_size(free_bytes(cfg.run_root))} are free"


def free_bytes(run_root: str) -> int:
    """Return how many bytes a run root may grow by, whether it is there already or not."""
    root = Path(run_root).absolute()
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


def disk_bytes(cfg: RunConfig, resources: Resources) -> int | None:
    """Return the most bytes of full states and models that lie in the run root at a time; None if not known.

    Without the models of `training.save_samples` and of the epochs of `training.max_steps`, whose number is known once
    the data is, unless `training.checkpoint_limit` is.
    """
    shape, training = _shape(cfg, {}), cfg.training
    if isinstance(shape, str):
        return None
    is_limited = training.checkpoint_limit is not None  # the next is whole before the oldest goes
    num_models = (kept_models(training) or 0) + 1 + is_limited
    models = num_models * memory.model_bytes(shape, _SAVED_BYTES.get(training.save_dtype))
    num_states = (
        training.keep_full_states + 1 if training.saves_states_on_the_way() else 0
    )  # the next is whole before the oldest goes
    return models + num_states * memory.state_bytes(shape, setup_of(cfg, resources, shape, None, _sizes(cfg, {})))


def _too_much(budget: int) -> str:
    return f"too much; {budget:,} tokens would fit" if budget else "too much, whatever the token budget"


def _remedy(cfg: TrainingConfig, shape: Shape, sharding: ShardingStrategy, setup: Setup, available: int) -> str:
    budget = memory.largest_budget(shape, sharding, setup, available)
    if budget:
        longest = budget * setup.context_parallel
        if longest >= cfg.max_seq_len:
            return f"try training.max_tokens_per_gpu={budget}"
        shared = _or_shared(cfg, shape, sharding, setup, available)
        return f"try training.max_tokens_per_gpu={budget} training.max_seq_len={longest}{shared}"
    if not setup.on_gpu:
        return f"a GPU, {_adapters(cfg)}or a smaller model"
    full = replace(setup, gradient_checkpointing=GradientCheckpointing.full)
    if memory.largest_budget(shape, ShardingStrategy.FULL_SHARD, full, available):
        return "try training/fsdp=full_shard training.gradient_checkpointing=full"
    return f"more ranks with training/fsdp=full_shard, {_adapters(cfg)}or a smaller model"


def _adapters(cfg: TrainingConfig) -> str:
    """Return which adapters would take less than what is trained; empty if none would."""
    if not cfg.lora.rank:
        return "training/lora=default, "
    return "" if quantizes(cfg) else "training/lora=qlora, "


def _or_shared(cfg: TrainingConfig, shape: Shape, sharding: ShardingStrategy, setup: Setup, available: int) -> str:
    """Return how many ranks to a row have room for the longest sample, where one has not; empty if none have."""
    if shape.capped:  # its rows are not packed
        return ""
    for size in range(setup.context_parallel + 1, setup.ranks + 1):
        if setup.ranks % size == 0 and shape.num_heads % size == 0:
            budget = memory.largest_budget(shape, sharding, replace(setup, context_parallel=size), available)
            if budget * size >= cfg.max_seq_len:
                settings = f"training.max_tokens_per_gpu={budget} training.context_parallel={size}"
                return f", or {settings}, so many ranks to a row"
    return ""


def _shape(cfg: RunConfig, have: Mapping[str, Artifact]) -> Shape | str:
    """Return the model's shape, or why it is not known."""
    made = have.get("model")
    config = read_config(made.model_dir) if isinstance(made, ModelArtifact) else read_model_config(cfg.model)
    if config is None:
        return "known once the model is here"
    return shape_of(config) or f"not known for the architecture {config.get('model_type')}"


def _sizes(cfg: RunConfig, have: Mapping[str, Artifact]) -> dict[str, int] | None:
    """Return the sizes of the model's tensors where the estimate needs them: a part of them may be frozen."""
    return parameter_sizes(cfg, have) if chooses(cfg.training) else None


def _tokenized(have: Mapping[str, Artifact]) -> TokenizedArtifact | None:
    made = have.get("tokenize")
    return made if isinstance(made, TokenizedArtifact) else None


def _available(cfg: TrainingConfig, resources: Resources) -> int | None:
    """Return a rank's bytes: those free on a GPU, or its share of the host's or the pod's; None = not known."""
    if cfg.launcher.is_remote:
        return None if resources.num_gpus else int(amount(cfg.launcher.pod_memory)) // resources.num_processes
    return (machine.gpu_bytes() or None) if resources.num_gpus else machine.host_bytes() // resources.num_processes


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB else f"{num_bytes / 2**20:.1f} MiB"
