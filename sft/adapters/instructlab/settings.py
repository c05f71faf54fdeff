"""Owns the settings of the training library, under its own names, and those of our ranks. No import of the library.

`MainArgs` holds every attribute that ``instructlab.training.main_ds.main(args)`` and what it calls read in
0.16.2, so that each is reachable: the library's public `TrainingArgs` lacks some (``lr_scheduler``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIBRARY_VERSION = "0.16.2"
VARLEN_CAPABILITY = (8, 0)
"""GPUs from this compute capability on have torch's kernel for packed rows (`torch.nn.attention.varlen`)."""


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
    trust_remote_code: bool
    accelerate_full_state_at_epoch: bool = False  # loop.py saves states and models
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
    """Settings that the library lacks or hard-codes, and that our ranks apply.

    Attributes:
        on_gpu: Whether the ranks have to find GPUs, or else none.
        precision: Arithmetic of forward and backward: ``bf16`` or ``fp32``.
        fsdp_version: 1 or 2.
        deterministic: Whether equal runs have to give equal bits, whatever that costs.
        attention: ``varlen``, ``flash_attention`` or ``sdpa``.
        packs_rows: Whether a minibatch is one row of many samples, which no layer of the model mixes.
        attention_cost: What attention costs, to balance rows over ranks: as `packed_rows.cost` takes it.
        context_parallel: Ranks that share the tokens of a row.
        save_dtype: Type of saved weights; ``auto`` = the base model's.
        gradient_checkpointing: Which layers recompute their activations: ``none``, ``selective`` or ``full``.
        compile_layers: Whether each repeated layer is compiled by torch.
        warmup_ratio: Part of the steps that is warm-up; None = the library's setting holds.
        min_learning_rate: The rate at the end of some schedules.
        schedule_cycles: Restarts of a cosine, and one.
        schedule_power: Of a polynomial.
        decay_ratio: Part of the steps in which `warmup_stable_decay` falls.
        num_epochs: Perhaps with a fraction; the library's is that of the epochs that are begun.
        max_steps: Optimizer steps in all; None = `num_epochs` holds.
        loss: ``cross_entropy`` or ``dft``, and
        label_smoothing: of the former, and
        z_loss: of both, as `rank.objective` has them.
        optimizer: ``adamw``, ``adafactor``, ``muon`` or ``lion``.
        decays_matrices_only: Whether weight decay leaves biases and norms alone.
        freeze: Patterns of parameters that are not trained (`parameter_choice.matching`).
        parameter_groups: By name: ``match``, ``freeze``, and what differs: ``learning_rate``, ``weight_decay``.
        num_loader_workers: Data loader processes (upstream: 8).
        max_grad_norm: Largest norm of the gradient (upstream: 1.0).
        sources: Names of the sources whose losses are told apart; empty = there is one.
        rows_file: Holds the row of each sample, a line each; empty = each sample is a row, or none is validated.
        validation_sets: Tokens and labels of held-out sets that are validated, a file each by the set's name.
        data_seed: Of the order of the samples, and of which are validated on; None = the library's seed.
        select_metric: Field of ``metrics.jsonl`` by which the step is chosen that the training ends with; empty = the
            last one is, and
        select_mode: whether ``min`` or ``max`` is best.
        patience: Validations without an improvement after which the training stops; None = it goes on, and
        min_delta: what is no improvement yet.
        checkpoint_at_epoch: Keep the model of each epoch; the last one is always saved.
        checkpoint_limit: Number of the newest models on the way to keep; None = all.
        save_samples: Samples after which the model is kept, again and again; 0 = never.
        full_state_at_epoch: Save the full state at the end of each epoch except the last.
        checkpoint_every_steps: Optimizer steps after which the full state is saved, too; None = only at epochs.
        keep_full_states: Number of the newest full states to keep.
        async_states: Whether the training goes on while a full state is written. FSDP2 only.
        validation_frequency: Optimizer steps between two validations; None = at the end of each epoch.
        stall_timeout_seconds: Time without a step after which a rank writes its Python stack.
        state_id: Digest of what determines the order of the data and the model, by which a full state is known.
        device: What the ranks train on, as the plan names it.
        lora: `training.lora` as plain data; empty = no adapters.
        adapted_model: Name of the base model in the adapter's configuration.
        adapted_revision: Its commit on the hub; empty for a folder.
        continued_adapter: Folder of the adapter with whose matrices the training begins; empty = with new ones.
        trackers: ``tensorboard``, ``mlflow``, ``wandb``.
        project: MLflow's experiment, W&B's project.
        run_name: Name of the run in the trackers.
        run_root: Folder of what is shared by runs, where MLflow's tracker writes without an address.
        flops: Of forward and backward pass, per token, per loss token and per squared length of a sample
            (`sft.planning.flops`); None = not known of this architecture.
        peak_flops: The most operations a second of one rank; None = not known of this device.
        profile_first_step: The first optimizer step that is traced; None = none is.
        profile_num_steps: How many are traced.
    """

    on_gpu: bool = False
    precision: str = "fp32"
    fsdp_version: int = 2
    deterministic: bool = False
    attention: str = "sdpa"
    packs_rows: bool = False
    attention_cost: float = 0.0
    context_parallel: int = 1
    save_dtype: str = "auto"
    gradient_checkpointing: str = "none"
    compile_layers: bool = False
    warmup_ratio: float | None = None
    min_learning_rate: float = 0.0
    schedule_cycles: int = 1
    schedule_power: float = 1.0
    decay_ratio: float = 0.1
    num_epochs: float = 1.0
    max_steps: int | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    optimizer: str = "adamw"
    decays_matrices_only: bool = False
    freeze: tuple[str, ...] = ()
    parameter_groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_loader_workers: int = 0
    max_grad_norm: float = 1.0
    sources: tuple[str, ...] = ()
    rows_file: str = ""
    validation_sets: dict[str, str] = field(default_factory=dict)
    data_seed: int | None = None
    select_metric: str = ""
    select_mode: str = "min"
    patience: int | None = None
    min_delta: float = 0.0
    checkpoint_at_epoch: bool = False
    checkpoint_limit: int | None = None
    save_samples: int = 0
    full_state_at_epoch: bool = True
    checkpoint_every_steps: int | None = None
    keep_full_states: int = 1
    async_states: bool = False
    validation_frequency: int | None = None
    stall_timeout_seconds: float = 1800.0
    state_id: str = ""
    device: str = "cpu"
    lora: dict[str, Any] = field(default_factory=dict)
    adapted_model: str = ""
    adapted_revision: str = ""
    continued_adapter: str = ""
    trackers: tuple[str, ...] = ()
    project: str = ""
    run_name: str = ""
    run_root: str = ""
    flops: tuple[float, float, float] | None = None
    peak_flops: float | None = None
    profile_first_step: int | None = None
    profile_num_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines that train together.

    Attributes:
        num: Number of machines.
        rank: Index of this one, from 0.
        rendezvous: ``host:port`` of node 0; empty if there is one node.
    """

    num: int = 1
    rank: int = 0
    rendezvous: str = ""


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Processes of one training run.

    Attributes:
        num_processes: Ranks on this machine.
        nodes: The machines.
        env: Added to every rank's environment.
        stall_timeout_seconds: Time after which a run that writes nothing is ended.
        gpus: Ids of the GPUs that the ranks see, one for each; empty = none; None = whatever is there.
    """

    num_processes: int
    nodes: Nodes
    env: dict[str, str]
    stall_timeout_seconds: float
    gpus: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One training, as its ranks run it.

    Attributes:
        run_id: Id of the run that needs it.
        key: Key of its result in the store.
        main: Arguments of the library.
        options: Settings that the library lacks or hard-codes.
        logs: Folder in which the ranks write metrics and notes.
    """

    run_id: str
    key: str
    main: MainArgs
    options: WorkerOptions
    logs: Path
