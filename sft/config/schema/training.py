"""Settings of the `training` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from sft.config.schema.adapters import LoraConfig
from sft.config.schema.bounds import LARGEST_INT32, LARGEST_SEED, each, groups, number, pairs, random_seed, setting
from sft.config.schema.launcher import LauncherConfig
from sft.config.schema.optimization import (
    GROUP_NAME,
    PATTERN,
    Loss,
    Optimizer,
    ParameterGroupConfig,
    WeightDecayOn,
)
from sft.config.schema.rules import Text
from sft.config.schema.schedule import LrScheduler, ScheduleConfig
from sft.config.schema.selection import EarlyStoppingConfig, SelectConfig
from sft.config.schema.texts import FREE, LINE, PATH, matches, not_empty, one_line

_CALLBACK = Text(matches(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "must be a name: letters, digits, _, . and -"))
_VARIABLE = Text(not_empty, one_line, matches("[^=]+", "must be a variable's name, without ="))


_RATE, _LORA_RATE = 5e-6, 2e-4


class ShardingStrategy(Enum):
    """FSDP's `ShardingStrategy`, same names (torch.distributed.fsdp.api)."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    HYBRID_SHARD = "HYBRID_SHARD"
    NO_SHARD = "NO_SHARD"


@dataclass(kw_only=True)
class FsdpConfig:
    """How the model is sharded over ranks."""

    version: int = number(2, at_least=1, at_most=2)
    """PyTorch's FSDP: 2 = each parameter is sharded on its own (`fully_shard`), 1 = those of a layer as one
    (`FullyShardedDataParallel`)."""
    sharding_strategy: ShardingStrategy = ShardingStrategy.FULL_SHARD
    """Upstream: `fsdp_sharding_strategy`. On one rank torch turns FULL_SHARD and HYBRID_SHARD into NO_SHARD."""
    cpu_offload_params: bool = False
    """Keep parameters in host memory between uses. Upstream: `cpu_offload_params_fsdp`."""


class Precision(Enum):
    """Arithmetic of forward and backward; weights and optimizer state stay fp32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Attention(Enum):
    """What computes attention, and so whether samples share a row or are padded to one length."""

    auto = "auto"
    varlen = "varlen"
    flash_attention = "flash_attention"
    sdpa = "sdpa"


class GradientCheckpointing(Enum):
    """Which layers keep only their input, and recompute the rest when the backward pass needs it."""

    auto = "auto"
    none = "none"
    selective = "selective"
    full = "full"


class Compile(Enum):
    """What of a model `torch.compile` compiles."""

    none = "none"
    regional = "regional"


class SaveDtype(Enum):
    """Type of the weights of a saved model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


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
    project: str = setting("sft", LINE)
    """MLflow: the experiment; W&B: the project."""


@dataclass(kw_only=True)
class ProfileConfig:
    """A trace of some optimizer steps by torch's profiler: `logs/profile.json.gz` of the checkpoint, for Perfetto."""

    first_step: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """The first step that is traced, on rank 0; null = no trace. Steps 1 to 3 warm up. Traced steps are slower."""
    num_steps: int = number(3, at_least=1, at_most=100)
    """How many are traced; each takes megabytes."""


class TrainOn(Enum):
    """Which tokens of a conversation count for the loss. A turn with `"weight": 0` never does."""

    all_turns = "all_turns"
    last_turn = "last_turn"
    everything = "everything"


class OnTooLong(Enum):
    """What becomes of a conversation that is too long."""

    error = "error"
    drop = "drop"
    truncate = "truncate"
    split_turns = "split_turns"


@dataclass(kw_only=True)
class TrainingConfig:
    """Supervised fine-tuning with instructlab-training on PyTorch FSDP."""

    num_epochs: float = number(1.0, above=0, at_most=1_000_000)
    """How often the training split is seen; of a fraction the optimizer steps are rounded up."""
    max_steps: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """Optimizer steps in all, for as many epochs as that takes, in the place of `num_epochs`; null = `num_epochs`
    holds. transformers' `max_steps`."""
    effective_batch_size: int | None = number(128, at_least=1, at_most=LARGEST_INT32)
    """Samples per optimizer step over all ranks; minibatches are packed below `max_tokens_per_gpu`. null = by the
    number of samples: the largest power of two up to 128 with which there are 50 steps, and 4 at least."""
    max_tokens_per_gpu: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """Token budget of one minibatch on one rank, padding included; with `context_parallel` of a rank's part of it. null
    = 10,000 on a GPU, 2048 on a CPU, where more takes memory and is no faster; and never less than the longest sample,
    or a rank's part of that. Upstream: `max_batch_len`."""
    context_parallel: int = number(1, at_least=1, at_most=1_024)
    """Ranks that share the tokens of a row, so that a sample may be so many times longer than `max_tokens_per_gpu`. It
    divides the ranks and the model's attention heads; the batch is shared by ranks / `context_parallel`."""
    max_seq_len: int = number(8192, at_least=1, at_most=LARGEST_INT32)
    """A sample of this many tokens or more does not fit; `on_too_long` says what becomes of it."""
    on_too_long: OnTooLong | None = None
    """A conversation that does not fit is an `error`; or left out (`drop`); or cut after the last turn that fits whole
    (`truncate`); or divided where users' turns begin, each part with the conversation's instruction (`split_turns`).
    What then still doesn't fit is left out and counted; a held-out one always is, unless it is an error. null = as
    `dataset.on_invalid` says."""
    train_on: TrainOn = TrainOn.all_turns
    """`all_turns` = each assistant's turn with its terminator; `last_turn` = only the last of them; `everything` =
    every token of the conversation but the first, which nothing precedes."""
    train_on_reasoning: bool = True
    """Whether the model learns to write its reasoning (`reasoning_content`, or what a content begins with between
    `<think>` and `</think>`). False = the reasoning is context; the marks around it still count."""
    learning_rate: float | None = number(None, at_least=0, at_most=1_000)
    """null = 5e-6, and with adapters (`lora.rank`) 2e-4, which take larger steps."""
    lr_scheduler: LrScheduler = LrScheduler.cosine
    warmup_steps: int = number(0, at_least=0)
    """Optimizer steps of linear warm-up, which have to be fewer than the training's. Upstream: `num_warmup_steps`."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: Loss = Loss.cross_entropy
    """`dft` = each token's cross-entropy weighted by the probability that the model gives it (arXiv:2508.05629)."""
    label_smoothing: float = number(0.0, at_least=0, below=1)
    """This part of each target is shared among all words of the vocabulary. torch: `cross_entropy`'s."""
    z_loss: float = number(0.0, at_least=0, at_most=1)
    """Adds this times the squared logarithm of the softmax's normaliser for each token (arXiv:2204.02311: 1e-4)."""
    optimizer: Optimizer = Optimizer.adamw
    """`adafactor` = at an absolute rate, with hardly any state; `lion` = for rates 3 to 10 times below AdamW's;
    `muon` = for the matrices of layers, at AdamW's rates, and AdamW for the rest. `adamw_8bit` is refused so far."""
    weight_decay: float = number(0.0, at_least=0, at_most=1_000)
    """Upstream: `adamw_weight_decay`."""
    weight_decay_on: WeightDecayOn = WeightDecayOn.matrices
    """`matrices` = of parameters with two dimensions or more; `all` = of biases and norms too."""
    freeze: list[str] = each(PATTERN)
    """What is not trained: `embeddings`, `lm_head`, `layers.0-11`, `layers.3`, or names as in `model.safetensors`, in
    which `*` stands for any text."""
    parameter_groups: dict[str, ParameterGroupConfig] = groups(GROUP_NAME)
    """Parameters with a learning rate or weight decay of their own, or none, each group under a name."""
    beta1: float = number(0.9, at_least=0, below=1)
    """Upstream: `adamw_beta1`."""
    beta2: float = number(0.95, at_least=0, below=1)
    """Upstream: `adamw_beta2`."""
    adam_epsilon: float = number(1e-8, above=0, at_most=1)
    """Upstream: `adamw_eps`."""
    max_grad_norm: float = number(1.0, above=0)
    """Gradients are scaled down to this norm; 1e30 leaves them as they are. torch: `clip_grad_norm_`."""
    neftune_alpha: float | None = number(None, at_least=0, at_most=1_000_000)
    """Noise on the embeddings while training (arXiv:2310.05914), 5 to 15 where it is used; null = none."""
    seed: int = random_seed(42)
    """Of dropout, noise and new weights; and, without `data_seed`, of the order of the samples."""
    data_seed: int | None = number(None, at_least=0, at_most=LARGEST_SEED)
    """Seed of the order of the samples in each epoch, and of which are validated on; null = `seed`."""
    precision: Precision = Precision.auto
    """`auto` = bf16 where the machine is faster with it (a GPU by its compute capability, a CPU by a timing that the
    run root keeps), else fp32."""
    deterministic: bool = False
    """Take only kernels that give the same bits each time, and stop where torch has none. It makes equal runs on
    a GPU equal bit for bit, at the cost of a slower backward pass; ranks on CPUs are that anyway. torch:
    `use_deterministic_algorithms`."""
    attention: Attention = Attention.auto
    """`varlen` = torch's own over packed rows: in one call on a GPU (bf16, compute capability 8.0 or more), sample by
    sample elsewhere. `flash_attention` = the package flash-attn, over packed rows. `sdpa` = torch's own over padded
    samples, which is what an architecture gets whose layers would mix the samples of a row. `auto` = flash attention
    where this machine has it, else varlen; in a TrainJob's pods varlen, because their packages are not known."""
    save_dtype: SaveDtype = SaveDtype.auto
    """Type of the weights of every saved model, which is the one that is scored and registered; `auto` = the type that
    they have in the base model. Full states stay fp32."""
    gradient_checkpointing: GradientCheckpointing = GradientCheckpointing.auto
    """Which layers recompute their activations in the backward pass: `none`; `selective` = every second one, a sixth
    more compute; `full` = each, a third more. `auto` = the first of these that fits into the device's memory by the
    estimate (docs/memory.md), and `full` where that is not known. The numbers are the same."""
    compile: Compile = Compile.none
    """`regional` = each repeated layer by itself, without its attention, in the first step, which then takes a minute
    or more; on a CPU later ones are hardly faster (benchmarks/RESULTS.md). It needs a C++ compiler, on a GPU Triton and
    a C compiler. torch: `torch.compile`. The numbers differ in the last digits, dropout draws others."""
    use_liger: bool = False
    """Liger's fused kernels, where there is a GPU and `liger-kernel` is installed."""
    validation_split: float = number(0.0, at_least=0, below=1)
    """Part of the training split's samples that is not trained but scored on the way; 0 = none. Those of one row stay
    together. The evaluation split is never touched by training."""
    validation_sets: list[str] = each(LINE)
    """Sets of `eval.holdouts` whose loss is measured on the way and after the last step, each as
    `validation_loss.NAME`, over the tokens that would count in training. Without `validation_split`, `validation_loss`
    is the mean over all of their tokens. No weight is trained by them."""
    validation_frequency: int | None = number(None, at_least=1)
    """Optimizer steps from one validation to the next; null = at the end of each epoch."""
    select: SelectConfig = field(default_factory=SelectConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    checkpoint_at_epoch: bool = True
    """Keep the model of each epoch under `checkpoints/`; the last one is always kept as `model/`."""
    save_samples: int = number(0, at_least=0)
    """Also keep the model each time that so many samples more have been seen; 0 = no."""
    checkpoint_limit: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """How many of the newest models on the way stay under `checkpoints/`, besides `model/`; null = all."""
    full_state_at_epoch: bool = True
    """Save optimizer and scheduler at the end of each epoch, so that a stopped run continues from there."""
    checkpoint_every_steps: int | None = number(None, at_least=1)
    """Save the full state each so many optimizer steps too; null = only at the end of an epoch."""
    keep_full_states: int = number(1, at_least=1)
    """How many full states to keep while training; at the end they are removed."""
    async_states: bool = True
    """Train on while a full state is written: a rank waits only until its part is copied to host memory. The copy takes
    12 bytes for each weight that is trained, divided over the ranks that shard it. false = ranks wait for the disk, as
    they do with FSDP1."""
    state_uri: str | None = setting(None, PATH)
    """Storage to which each full state is copied and from which a fresh machine resumes: `s3://bucket/prefix`, another
    scheme that fsspec writes, `pvc://claim/folder`, a folder; null = states stay in `run_root` alone. Removed there at
    the end. Credentials come from the environment."""
    stall_timeout_seconds: int = number(1800, at_least=1, at_most=LARGEST_INT32)
    """A run that writes nothing for so long is ended, with the stack of each rank in the message."""
    max_restarts: int = number(0, at_least=0, at_most=1_000_000)
    """How often to go on from the last full state after a rank was lost (not after an error of its own)."""
    num_loader_workers: int | None = number(None, at_least=0, at_most=1_024)
    """Data loader processes per rank; null = 0 without a GPU, 2 with one."""
    env: dict[str, str] = pairs(_VARIABLE, FREE)
    """Environment variables of every rank. Never a secret: they are recorded. Those that can change a number make
    another training; logs, trackers, memory and networks don't."""
    allow_any_env: bool = False
    """Let `env` set variables that can make a rank load code (`PYTHONPATH`, `LD_PRELOAD`, `NCCL_NET_PLUGIN`), or that
    sft doesn't know. The record says so."""
    fsdp: FsdpConfig = field(default_factory=FsdpConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    callbacks: list[str] = each(_CALLBACK)
    """Names under which installed packages offer to be told of each step, epoch and the end (entry point group
    `sft.callbacks`, docs/extending.md). One that fails ends the run."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def saves_states_on_the_way(self) -> bool:
        """Return whether full states are saved while the training goes on, and not only when it is stopped."""
        return self.checkpoint_every_steps is not None or (
            self.full_state_at_epoch and (self.num_epochs > 1 or self.max_steps is not None)
        )

    def validates(self) -> bool:
        """Return whether a loss is measured on samples that are not trained, while the training goes on."""
        return bool(self.validation_split or self.validation_sets)

    def choosing_sets(self) -> list[str]:
        """Return the sets of `validation_sets` whose loss chooses the step that the training ends with."""
        if self.select.validated is None:
            return []
        _, _, name = self.select.validated.partition(".")
        if not name:
            return [] if self.validation_split else self.validation_sets
        return [name] if name in self.validation_sets else []

    def rate(self) -> float:
        """Return the highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _LORA_RATE if self.lora.rank else _RATE
