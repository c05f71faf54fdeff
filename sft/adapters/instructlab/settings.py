"""What goes into the training library, in its own names. Frozen facts; no import of the library.

`MainArgs` holds every attribute that ``instructlab.training.main_ds.main(args)`` and what it calls read in
0.16.2, so that each is reachable: the library's public `TrainingArgs` lacks some (``lr_scheduler``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LIBRARY_VERSION = "0.16.2"


@dataclass(frozen=True, kw_only=True)
class MainArgs:
    """The attributes of `main_ds.main`'s namespace; see its argument parser for their meaning."""

    model_name_or_path: str
    data_path: str
    output_dir: str
    num_epochs: int
    effective_batch_size: int
    max_batch_len: int
    learning_rate: float
    lr_scheduler: str
    num_warmup_steps: int
    adamw_weight_decay: float
    adamw_beta1: float
    adamw_beta2: float
    adamw_eps: float
    seed: int
    fsdp_sharding_strategy: str
    cpu_offload_params_fsdp: bool
    accelerate_full_state_at_epoch: bool
    trust_remote_code: bool
    checkpoint_at_epoch: bool = True
    distributed_training_framework: str = "fsdp"
    model_class: str = "CausalLM"
    disable_flash_attn: bool = True
    current_epoch: int = 0
    last_step: int = 0
    save_samples: int = 0
    save_samples_ds: int | None = None
    save_last: bool = False
    keep_last_checkpoint_only: bool = False
    on_demand_checkpointing: bool = False
    log_level: str = "INFO"
    mock_data: bool = False
    mock_len: int = 2600
    use_dolomite: bool = False
    use_liger: bool = False
    NEFTune_alpha: float | None = None
    chat_tmpl_path: str | None = None
    lora_r: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_quant_bits: int | None = None
    lora_target_modules: tuple[str, ...] | None = None
    block_size: int | None = None
    document_column_name: str | None = None
    pretraining_config: None = None
    cpu_offload_optimizer: bool = False
    cpu_offload_optimizer_pin_memory: bool = False
    cpu_offload_optimizer_ratio: float = 1.0
    validation_split: float = 0.0
    validation_frequency: int | None = None
    callbacks: str | None = None
    mlflow_tracking_uri: str | None = None
    mlflow_experiment_name: str | None = None
    mlflow_run_name: str | None = None
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_run_name: str | None = None
    tensorboard_log_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What the library hard-codes and the worker sets.

    Attributes:
        precision: Arithmetic of forward and backward; ``auto`` = bf16 where the machine computes in it.
        num_loader_workers: None = 0 without a GPU, 2 with one (upstream: 8).
    """

    precision: Literal["auto", "bf16", "fp32"]
    gradient_checkpointing: bool
    num_loader_workers: int | None


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Processes of one training run.

    Attributes:
        num_processes: Ranks on this machine.
        env: Added to every rank's environment.
    """

    num_processes: int
    env: dict[str, str]
