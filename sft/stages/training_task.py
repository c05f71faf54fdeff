"""What the ranks of a training do: a run's settings, in the library's terms and in those that it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sft.adapters.instructlab.settings import MainArgs, TrainingTask, WorkerOptions
from sft.artifacts import ModelArtifact, TokenizedArtifact
from sft.config.schema import Attention, Compile, SelectMode, TrainingConfig, WeightDecayOn
from sft.planning import row_packing
from sft.planning.flops import attention_cost, model_flops
from sft.planning.gpu_peaks import peak_flops
from sft.planning.model_config import read_config
from sft.planning.model_shape import shape_of
from sft.planning.resources import Resources
from sft.planning.step_count import batch_size_of, num_validation_samples


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """What the training stage takes.

    Attributes:
        resources: What it trains on and with.
        validated: Labelled samples of each set of `training.validation_sets`, by its name.
        run_name: What experiment trackers call the run; determines nothing.
        run_id: Of the run, and
        key: of this step in the store: how a TrainJob is found again. They determine nothing.
        detach: Whether a TrainJob is left to itself once it is there.
        state_id: What its full states are known by (`sft.planning.state_id`).
        run_root: Where experiment trackers write that have no place of their own; None = beside the metrics.
    """

    model: ModelArtifact
    tokenized: TokenizedArtifact
    resources: Resources
    validated: Mapping[str, TokenizedArtifact] = field(default_factory=dict)
    run_name: str = ""
    run_id: str = ""
    key: str = ""
    detach: bool = False
    state_id: str = ""
    run_root: Path | None = None


def task(cfg: TrainingConfig, inputs: TrainInputs, logs: Path, work: Path) -> TrainingTask:
    """Return what the ranks do."""
    return TrainingTask(
        run_id=inputs.run_id,
        key=inputs.key,
        main=main_args(cfg, inputs, work),
        options=worker_options(cfg, inputs),
        logs=logs,
    )


def main_args(cfg: TrainingConfig, inputs: TrainInputs, work: Path) -> MainArgs:
    """Return our settings as the library's."""
    resources = inputs.resources
    return MainArgs(
        model_name_or_path=str(inputs.model.trained_dir),
        model_class="Liger" if resources.use_liger else "CausalLM",
        data_path=str(inputs.tokenized.data_file),
        output_dir=str(work),
        num_epochs=math.ceil(cfg.num_epochs),  # the ranks know their rows, and so those of max_steps
        effective_batch_size=batch_size(cfg, inputs),
        max_batch_len=resources.row_budget(inputs.tokenized.longest_tokens),
        disable_flash_attn=resources.attention is not Attention.flash_attention,
        learning_rate=cfg.rate(),
        lr_scheduler=cfg.lr_scheduler.value,
        num_warmup_steps=cfg.warmup_steps,
        adamw_weight_decay=cfg.weight_decay,
        adamw_beta1=cfg.beta1,
        adamw_beta2=cfg.beta2,
        adamw_eps=cfg.adam_epsilon,
        NEFTune_alpha=cfg.neftune_alpha,
        seed=cfg.seed,
        validation_split=cfg.validation_split,
        lora_r=cfg.lora.rank,
        lora_alpha=cfg.lora.alpha,
        lora_dropout=cfg.lora.dropout,
        fsdp_sharding_strategy=resources.strategy.value,
        cpu_offload_params_fsdp=resources.cpu_offload_params,
        trust_remote_code=inputs.model.trust_remote_code,
    )


def batch_size(cfg: TrainingConfig, inputs: TrainInputs) -> int:
    """Return the samples of one optimizer step over all ranks."""
    num_samples = inputs.tokenized.num_samples
    return batch_size_of(cfg, num_samples - num_validation_samples(cfg, num_samples))


def worker_options(cfg: TrainingConfig, inputs: TrainInputs) -> WorkerOptions:
    """Return our settings that the library has not."""
    config, attention = read_config(inputs.model.model_dir) or {}, inputs.resources.attention
    return WorkerOptions(
        on_gpu=bool(inputs.resources.num_gpus),
        precision=inputs.resources.precision.value,
        fsdp_version=inputs.resources.fsdp_version,
        deterministic=cfg.deterministic,
        attention=attention.value,
        packs_rows=row_packing.why_padded(config, attention) is None,
        attention_cost=attention_cost(config, cfg.lora),
        context_parallel=inputs.resources.context_parallel,
        save_dtype=cfg.save_dtype.value,
        gradient_checkpointing=inputs.resources.gradient_checkpointing.value,
        compile_layers=inputs.resources.compile is Compile.regional,
        warmup_ratio=cfg.schedule.warmup_ratio,
        min_learning_rate=cfg.schedule.min_learning_rate,
        schedule_cycles=cfg.schedule.cycles,
        schedule_power=cfg.schedule.power,
        decay_ratio=cfg.schedule.decay_ratio,
        num_epochs=cfg.num_epochs,
        max_steps=cfg.max_steps,
        loss=cfg.loss.value,
        label_smoothing=cfg.label_smoothing,
        z_loss=cfg.z_loss,
        optimizer=cfg.optimizer.value,
        decays_matrices_only=cfg.weight_decay_on is WeightDecayOn.matrices and cfg.fsdp.version == 2,
        freeze=tuple(cfg.freeze),
        parameter_groups=msgspec.to_builtins(cfg.parameter_groups),
        num_loader_workers=inputs.resources.num_loader_workers,
        max_grad_norm=cfg.max_grad_norm,
        sources=tuple(inputs.tokenized.sources),
        rows_file=str(inputs.tokenized.rows_file) if cfg.validation_split and inputs.tokenized.rows_file else "",
        validation_sets={name: str(inputs.validated[name].data_file) for name in cfg.validation_sets},
        data_seed=cfg.data_seed,
        select_metric=cfg.select.validated or "",
        select_mode=(cfg.select.mode or SelectMode.min).value,  # of a loss
        patience=cfg.early_stopping.patience,
        min_delta=cfg.early_stopping.min_delta,
        checkpoint_at_epoch=cfg.checkpoint_at_epoch,
        checkpoint_limit=cfg.checkpoint_limit,
        save_samples=cfg.save_samples,
        full_state_at_epoch=cfg.full_state_at_epoch,
        checkpoint_every_steps=cfg.checkpoint_every_steps,
        keep_full_states=cfg.keep_full_states,
        async_states=inputs.resources.async_states,
        validation_frequency=cfg.validation_frequency,
        stall_timeout_seconds=cfg.stall_timeout_seconds,
        state_id=inputs.state_id,
        device=inputs.resources.device,
        lora=msgspec.to_builtins(cfg.lora) if cfg.lora.rank else {},
        adapted_model=inputs.model.adapted_model,
        adapted_revision="" if inputs.model.trains_other_weights else inputs.model.revision,
        continued_adapter=str(inputs.model.continued_adapter or ""),
        trackers=tuple(tracker.value for tracker in cfg.tracking.trackers),
        project=cfg.tracking.project,
        run_name=inputs.run_name,
        run_root=str(inputs.run_root.absolute()) if inputs.run_root else "",
        flops=_flops(cfg, inputs),
        peak_flops=peak_flops(inputs.resources.device, inputs.resources.precision),
        profile_first_step=cfg.profile.first_step,
        profile_num_steps=cfg.profile.num_steps,
    )


def _flops(cfg: TrainingConfig, inputs: TrainInputs) -> tuple[float, float, float] | None:
    """Return operations per token, per loss token and per squared length; None if they are not known."""
    shape = shape_of(read_config(inputs.model.model_dir) or {})
    if shape is None or cfg.freeze or any(group.freeze for group in cfg.parameter_groups.values()):
        return None  # the gradients of frozen weights are not computed, and which are known inside the ranks
    flops = model_flops(shape, cfg.lora)
    return flops.per_token, flops.per_loss_token, flops.per_square
