"""Every setting a recipe may hold: one dataclass per group, each field documented beneath it.

Defaults live here and nowhere else; the YAML files under ``conf/`` say only what differs. Enum members are
spelled as a person types them. ``MISSING`` marks what only a person can supply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class DatasetFormat(Enum):
    """How a source row spells a conversation."""

    auto = "auto"
    messages = "messages"
    conversations = "conversations"
    alpaca = "alpaca"
    prompt_completion = "prompt_completion"


class OnInvalid(Enum):
    """What becomes of a row that breaks a rule."""

    error = "error"
    drop = "drop"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Names of the source's columns."""

    messages: str = "messages"
    """Column that holds the conversation (`messages`, `conversations`)."""
    prompt: str = "prompt"
    """Column that becomes the user's turn (`format=prompt_completion`)."""
    completion: str = "completion"
    """Column that becomes the assistant's turn (`format=prompt_completion`)."""


@dataclass(kw_only=True)
class DatasetConfig:
    """Where the data is, what it looks like and how it is split."""

    uri: str = MISSING
    """Source: a file, folder or glob; `hf://org/name[:config][@revision]`; `s3://`, `http(s)://` or whatever
    fsspec knows; `synthetic://spell-numbers?rows=3000` for data that needs no download."""
    split: str | None = None
    """Split of a hub dataset; null = `train`, else the only one."""
    eval_uri: str | None = None
    """A separate evaluation set, read like `uri`: `train_split` is then not applied, and samples that stand in both are
    removed from training."""
    eval_split: str | None = None
    """Split of a hub dataset in `eval_uri`."""
    format: DatasetFormat = DatasetFormat.auto
    """`auto` looks at the first row and says what it found; `messages` (OpenAI), `conversations` (ShareGPT), `alpaca`,
    or two columns by name (`prompt_completion`)."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    keep_columns: list[str] = field(default_factory=list)
    """Further columns that stay with each sample, as its `metadata`; they don't take part in finding duplicates."""
    system_prompt: str | None = None
    """System turn put before every conversation that has none; null = none."""
    train_split: float = 0.9
    """Share of the samples to train on, in (0, 1]; the rest is held out. 1.0 = no evaluation split."""
    max_samples: int | None = None
    """Seeded subset of the valid samples; null = all."""
    seed: int = 42
    """Seed of the split and of `max_samples`."""
    on_invalid: OnInvalid = OnInvalid.error
    """`error` stops at invalid rows and lists them; `drop` writes them to `rejected.jsonl` and goes on."""
    max_download_bytes: int | None = None
    """Largest file that is fetched over HTTP; null = any."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Passed to fsspec as they are (`endpoint_url` for an S3 server). Keys belong into the environment."""


class ModelSource(Enum):
    """Where the weights come from."""

    pretrained = "pretrained"
    scratch = "scratch"


@dataclass(kw_only=True)
class ScratchConfig:
    """Shape of a Qwen2-architecture model with random weights, and of the tokenizer trained for it."""

    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 2048
    vocab_size: int = 2048
    """Largest vocabulary of the byte-level BPE tokenizer trained on the training split, special tokens
    included; at least 300 (256 bytes and the special tokens)."""
    initializer_range: float = 0.05
    seed: int = 0
    """Seed of the random weights."""


@dataclass(kw_only=True)
class ModelConfig:
    """The model to fine-tune."""

    source: ModelSource = ModelSource.pretrained
    name_or_path: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Hub id or local folder (`source=pretrained`). transformers: `pretrained_model_name_or_path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null = the default branch."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run. Recorded when true."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)


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


class LauncherKind(Enum):
    """What starts the ranks."""

    torchrun = "torchrun"


@dataclass(kw_only=True)
class LauncherConfig:
    """Processes of the training stage."""

    kind: LauncherKind = LauncherKind.torchrun
    num_workers: int = 1
    """Machines that train together on one `run_root`; on each the same command runs. torchrun: `--nnodes`."""
    node_rank: int | None = None
    """Which of them this one is, from 0; null = `PET_NODE_RANK`. Node 0 also does the other stages."""
    rendezvous: str | None = None
    """`host:port` of node 0; null = `PET_MASTER_ADDR` and `PET_MASTER_PORT`."""
    gpus_per_worker: int | None = None
    """GPUs of a machine that train; null = all that are there."""
    procs_per_worker: int | None = None
    """Ranks on a machine; null = one per GPU, or one on a machine without. torchrun: `--nproc-per-node`."""


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
    max_tokens_per_gpu: int = 10_000
    """Token budget of one minibatch on one rank, padding included. Upstream: `max_batch_len`."""
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


@dataclass(kw_only=True)
class HoldoutConfig:
    """Scoring of the evaluation split with the model's own chat template."""

    enabled: bool = True
    """Loss per answer token on the evaluation split."""
    generate: bool = True
    """Also write each last answer greedily and count exact matches."""
    max_new_tokens: int = 256
    """Longest written answer, in tokens."""
    limit: int | None = None
    """Score only the first so many samples of the evaluation split; null = all."""


@dataclass(kw_only=True)
class EvalConfig:
    """What is scored, for the tuned model and, as a baseline, for the base model."""

    enabled: bool = True
    """False = nothing is scored at all, whatever else is set here."""
    tasks: list[str] = field(default_factory=lambda: ["arc_easy"])
    """lm-eval tasks or groups; an empty list = only the held-out split."""
    include_path: str | None = None
    """Folder with task YAMLs of your own; relative `data_files` in them are relative to the YAML."""
    num_fewshot: int | None = None
    """null = as the task says."""
    limit: int | None = None
    """First so many samples of each task; null = all. lm-eval: `limit`."""
    batch_size: str = "auto"
    """A number, or `auto`."""
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to generation tasks as they are."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passed to lm-eval's `hf` model as they are (`dtype`, `max_length` …)."""
    apply_chat_template: bool = False
    """Put each task's prompts through the model's chat template."""
    log_samples: bool = True
    """Keep every sample with prompt, target and answer."""
    seed: int = 1234
    """lm-eval: random, numpy, torch and few-shot seed."""
    baseline: bool = True
    """Also score the base model, once per model, data and settings."""
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)


class RegistryKind(Enum):
    """Where the result is registered."""

    none = "none"
    mlflow = "mlflow"
    kubeflow = "kubeflow"


@dataclass(kw_only=True)
class RegistryConfig:
    """Registration of the tuned model with its provenance."""

    kind: RegistryKind = RegistryKind.none
    address: str = ""
    """Kubeflow: server address with scheme, empty = skip. MLflow: tracking URI, empty = SQLite in the run root."""
    port: int = 8080
    """Port of the Kubeflow server."""
    author: str = "pipeline"
    model_name: str = "sft-model"
    model_version: str = "1.0.0"
    """Version label. MLflow numbers its versions itself and carries this one as a tag."""
    description: str = ""
    model_format_name: str = "pytorch"
    model_format_version: str = "1.0"


@dataclass(kw_only=True)
class RunConfig:
    """One run: everything that `sft run` reads."""

    name: str = "run"
    """Prefix of the run's folder; a recipe's own name unless set."""
    run_root: str = "runs"
    """Folder of the artifact store and of every run's record; relative to where `sft` is called."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
