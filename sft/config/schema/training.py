"""Settings of the `training` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from sft.config.schema.launcher import LauncherConfig


class ShardingStrategy(Enum):
    """FSDP's `ShardingStrategy`, same names (torch.distributed.fsdp.api)."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    HYBRID_SHARD = "HYBRID_SHARD"
    NO_SHARD = "NO_SHARD"


@dataclass(kw_only=True)
class FsdpConfig:
    """How the model is sharded over ranks."""

    sharding_strategy: ShardingStrategy = ShardingStrategy.FULL_SHARD
    """Upstream: `fsdp_sharding_strategy`. On one rank torch turns FULL_SHARD and HYBRID_SHARD into NO_SHARD."""
    cpu_offload_params: bool = False
    """Keep parameters in host memory between uses. Upstream: `cpu_offload_params_fsdp`."""


class LrScheduler(Enum):
    """transformers' `SchedulerType` names that the backend accepts."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    polynomial = "polynomial"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"


class Precision(Enum):
    """Arithmetic of forward and backward; weights and optimizer state stay fp32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Attention(Enum):
    """What computes attention. Flash attention needs no padding between samples."""

    auto = "auto"
    flash_attention = "flash_attention"
    sdpa = "sdpa"


class SaveDtype(Enum):
    """Type of the weights of a saved model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters in the place of full fine-tuning. peft's `LoraConfig`."""

    rank: int = 0
    """Rank of the update; 0 = no adapters, every weight is trained. peft: `r`."""
    alpha: int = 32
    """The update is scaled by `alpha / rank`. peft: `lora_alpha`."""
    dropout: float = 0.1
    """peft: `lora_dropout`."""
    target_modules: list[str] | None = None
    """Last part of the names of the adapted layers (`q_proj`); null = every projection (`*_proj`)."""


class Tracker(Enum):
    """Where the training curve can be watched, besides `metrics.jsonl`."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"


@dataclass(kw_only=True)
class TrackingConfig:
    """Experiment tracking. Servers and tokens come from each tracker's own environment variables."""

    trackers: list[Tracker] = field(default_factory=lambda: [Tracker.tensorboard])
    """TensorBoard's files lie under the checkpoint's `logs/tensorboard`; an empty list = none."""
    project: str = "sft"
    """MLflow: the experiment; W&B: the project."""


@dataclass(kw_only=True)
class TrainingConfig:
    """Supervised fine-tuning with instructlab-training on PyTorch FSDP."""

    num_epochs: int = 1
    effective_batch_size: int = 128
    """Samples per optimizer step over all ranks; minibatches are packed below `max_tokens_per_gpu`."""
    max_tokens_per_gpu: int | None = None
    """Token budget of one minibatch on one rank, padding included. null = 10,000 on a GPU, 2048 on a CPU, where more
    takes memory and is no faster; and never less than the longest sample. Upstream: `max_batch_len`."""
    max_seq_len: int = 8192
    """A sample of this many tokens or more does not fit: it is refused before training."""
    learning_rate: float = 5e-6
    lr_scheduler: LrScheduler = LrScheduler.cosine
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up. Upstream: `num_warmup_steps`."""
    weight_decay: float = 0.0
    """Upstream: `adamw_weight_decay`."""
    beta1: float = 0.9
    """Upstream: `adamw_beta1`."""
    beta2: float = 0.95
    """Upstream: `adamw_beta2`."""
    adam_epsilon: float = 1e-8
    """Upstream: `adamw_eps`."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm. torch: `clip_grad_norm_`."""
    neftune_alpha: float | None = None
    """Noise on the embeddings while training (arXiv:2310.05914), 5 to 15 where it is used; null = none."""
    seed: int = 42
    precision: Precision = Precision.auto
    """`auto` = bf16 where the machine computes in it, else fp32."""
    attention: Attention = Attention.auto
    """`auto` = flash attention where this machine has it, else torch's own; in a TrainJob's pods torch's own, because
    their packages are not known."""
    save_dtype: SaveDtype = SaveDtype.auto
    """Type of the weights of every saved model, which is the one that is scored and registered; `auto` = the type that
    they have in the base model. Full states stay fp32."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    use_liger: bool = False
    """Liger's fused kernels, where there is a GPU and `liger-kernel` is installed."""
    validation_split: float = 0.0
    """Part of the training split that is not trained but scored on the way; 0 = none. The evaluation split is never
    touched by training."""
    validation_frequency: int | None = None
    """Optimizer steps from one validation to the next; null = at the end of each epoch."""
    checkpoint_at_epoch: bool = True
    """Keep the model of each epoch under `checkpoints/`; the last one is always kept as `model/`."""
    save_samples: int = 0
    """Also keep the model each time that so many samples more have been seen; 0 = no."""
    full_state_at_epoch: bool = True
    """Save optimizer and scheduler at the end of each epoch, so that a stopped run continues from there."""
    checkpoint_every_steps: int | None = None
    """Save the full state each so many optimizer steps too; null = only at the end of an epoch."""
    keep_full_states: int = 1
    """How many full states to keep while training; at the end they are removed."""
    stall_timeout_seconds: int = 1800
    """A run that writes nothing for so long is ended, with the stack of each rank in the message."""
    max_restarts: int = 0
    """How often to go on from the last full state after a rank was lost (not after an error of its own)."""
    num_loader_workers: int | None = None
    """Data loader processes per rank; null = 0 without a GPU, 2 with one."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of every rank. Never a secret: they are recorded."""
    fsdp: FsdpConfig = field(default_factory=FsdpConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
