"""Settings of transformers' `TrainingArguments`, which LLaMA-Factory and TRL take as they are, and axolotl in part."""

from __future__ import annotations

import re
from typing import Any

from sft.importing import readers
from sft.importing.rows import (
    Found,
    Kind,
    Source,
    Table,
    absent,
    by,
    chosen,
    differs,
    each,
    is_off,
    missing,
    named,
    other,
    positive,
    same,
    taken,
)

METHOD = "preferences, rewards and distillation: sft does supervised fine-tuning"
PICTURES = "text only: a model's parts for images, sound and video are not trained"
HUB = "registry.upload=hf://owner/name uploads the model; a token stands in the environment"
SHOWN = "each step is in metrics.jsonl, and on the run's page"
KERNELS = "which kernels compute is chosen here: training.attention, use_liger, compile"
DDP = "PyTorch's FSDP (training.fsdp) is set up by instructlab-training"
LOADING = "data is tokenized before training, each sample once; training.num_loader_workers reads it"
CACHE = "the artifact store keeps what is done, by its key"
CHOSEN = "training.select needs rows to validate on: training.validation_split, or training.validation_sets"
CONTINUED = by(
    "model.adapter",
    lambda value, _: taken(
        {"model.adapter": value, "model.adapter_use": "continued"},
        "its own rank and layers hold: leave out settings of training.lora that contradict it",
    ),
    "with model.adapter_use=continued",
)
_TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def trackers(value: Any, _: Source) -> Found:
    """Read where curves go."""
    names = [value] if isinstance(value, str) else value
    if is_off(value) or names in (["none"], ["all"]):
        return other({}, "training.tracking: TensorBoard's files, which need no server")
    known = [name for name in names if named(name, _TRACKERS)] if isinstance(names, list) else []
    if not known:
        return missing("training.tracking.trackers has tensorboard, mlflow and wandb")
    left = [str(name) for name in names if not named(name, _TRACKERS)]
    note = f"there is none called {', '.join(left)}" if left else ""
    return Found(Kind.DIFFERS if left else Kind.TAKEN, {"training.tracking.trackers": known}, note)


def save_steps(value: Any, source: Source) -> Found:
    """Read how often a checkpoint is kept."""
    if source.get("save_strategy") not in (None, "steps") or is_off(value):
        return taken({}, "checkpoints are not by steps")
    number = source.number("save_steps")
    if number is None or not number.is_integer():
        return missing("training.checkpoint_every_steps is a number of steps")
    note = "the full state, from which a stopped run goes on; models of epochs stay, of steps not"
    return other({"training.checkpoint_every_steps": int(number)}, note)


def _validates(value: Any, source: Source) -> Found:
    number = source.number("eval_steps")
    held = source.number("val_size") or source.number("val_set_size") or source.validated_sets
    if source.get("eval_strategy") not in (None, "steps") or is_off(value):
        return taken({}, "validations are not by steps")
    if not held or number is None or not number.is_integer():
        return missing("training.validation_frequency is a number of steps, and needs rows to validate on")
    return taken({"training.validation_frequency": int(number)})


def _validated(source: Source) -> bool:
    parts = (source.number("val_size"), source.number("val_set_size"))
    return bool(source.validated_sets) or any(part is not None and 0 < part < 1 for part in parts)


def _metric(source: Source) -> str | None:
    """Return the validation loss that chooses there; None where it is another thing."""
    said = source.get("metric_for_best_model")
    if said in (None, "loss", "eval_loss"):
        return "validation_loss"
    of_set = re.fullmatch(r"(?:eval_)?(\w+)_loss", str(said))
    return f"validation_loss.{of_set[1]}" if of_set and of_set[1] in source.validated_sets else None


def _best(value: Any, source: Source) -> Found:
    """Read whether the best model is taken, which here is the one with the lowest validation loss."""
    if is_off(value):
        return taken({}, "off: the last model is the run's")
    metric = _metric(source)
    if not _validated(source) or metric is None:
        return missing(CHOSEN)
    return taken({"training.select.metric": metric})


def _patience(value: Any, source: Source) -> Found:
    if is_off(value):
        return taken({}, "off")
    if not _validated(source):
        return missing(CHOSEN)
    metric = _metric(source) or "validation_loss"
    return taken({"training.select.metric": metric, "training.early_stopping.patience": value})


SELECTION: Table = {
    "load_best_model_at_end": by("training.select.metric", _best),
    **each(
        "metric_for_best_model greater_is_better",
        differs("validation_loss, the lowest; scores choose among epochs", "training.select"),
    ),
    **each(
        "early_stopping_patience early_stopping_steps",
        by("training.early_stopping.patience", _patience, "validations without an improvement"),
    ),
    "save_total_limit": positive("training.checkpoint_limit", "models on the way; of full states the last one stays"),
}
EVAL_STEPS = by("training.validation_frequency", _validates)


def strategy(ours: str, what: str) -> Table:
    """Return the row of when checkpoints or validations are made: each epoch, some steps, never."""

    def read(value: Any, source: Source) -> Found:
        if value == "epoch":
            return taken({}, f"{what} at the end of each epoch, as by default")
        if value == "steps":
            return taken({}, "by steps, which have a setting of their own")
        if is_off(value):
            return other({ours: False} if ours else {}, f"no {what} on the way")
        return _best(True, source) if value == "best" else missing(f"{what} each epoch, or by steps")

    kind = Kind.DIFFERS
    return {
        f"{'save' if ours else 'eval'}_strategy": by(ours, read, f"{what} at the end of each epoch, or by steps", kind)
    }


def _fsdp(value: Any, _: Source) -> Found:
    names = value.split() if isinstance(value, str) else value
    if value is True:
        names = ["full_shard"]
    if is_off(names) or not isinstance(names, list):
        return taken({}, "off: here FULL_SHARD, by the same numbers")
    known = {"full_shard": "FULL_SHARD", "shard_grad_op": "SHARD_GRAD_OP", "hybrid_shard": "HYBRID_SHARD"}
    known["no_shard"] = "NO_SHARD"
    chosen_ones = [known[name] for name in names if isinstance(name, str) and name in known]
    settings: dict[str, Any] = {"training.fsdp.sharding_strategy": chosen_ones[-1]} if chosen_ones else {}
    if "offload" in names:
        settings["training.fsdp.cpu_offload_params"] = True
    rest = {str(name) for name in names} - set(known) - {"auto_wrap", "offload"}
    return missing(f"training.fsdp has no {', '.join(sorted(rest))}") if rest else taken(settings)


FSDP = by("training.fsdp.sharding_strategy", _fsdp)
_OFFLOAD = same("training.fsdp.cpu_offload_params")
_WRAP = differs("FSDP wraps each of the model's layers by itself")
_STATE = differs("the model is saved whole, as safetensors; full states are sharded")


def _reshard(value: Any, _: Source) -> Found:
    if not isinstance(value, bool):
        return missing("training.fsdp.sharding_strategy: true is FULL_SHARD, false SHARD_GRAD_OP")
    return taken({"training.fsdp.sharding_strategy": "FULL_SHARD" if value else "SHARD_GRAD_OP"})


_NAMED = ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "NO_SHARD")
_FSDP_CONFIG: Table = {
    "version": same("training.fsdp.version"),
    "sharding_strategy": chosen("training.fsdp.sharding_strategy", {name: name for name in _NAMED}),
    "offload_params": _OFFLOAD,
    "cpu_offload_pin_memory": differs("host memory is pinned where parameters are kept there"),
    "reshard_after_forward": by("training.fsdp.sharding_strategy", _reshard),
    "activation_checkpointing": by("training.gradient_checkpointing", readers.checkpointing),
    **each("auto_wrap_policy transformer_layer_cls_to_wrap min_num_params", _WRAP),
    **each("state_dict_type final_state_dict_type", _STATE),
    **each(
        "sync_module_states cpu_ram_efficient_loading use_orig_params limit_all_gathers backward_prefetch "
        "forward_prefetch mixed_precision_policy xla xla_fsdp_v2 xla_fsdp_settings xla_fsdp_grad_ckpt",
        differs(DDP),
    ),
}
FSDP_CONFIG: Table = {
    **{f"fsdp_config.{key}": row for key, row in _FSDP_CONFIG.items()},
    **{f"fsdp_config.fsdp_{key}": row for key, row in _FSDP_CONFIG.items()},
}
"""Its keys with and without `fsdp_`, as each project's files have them."""

OPTIMIZER: Table = {
    "learning_rate": same("training.learning_rate"),
    "weight_decay": same("training.weight_decay"),
    "adam_beta1": same("training.beta1"),
    "adam_beta2": same("training.beta2"),
    "adam_epsilon": same("training.adam_epsilon"),
    "max_grad_norm": by("training.max_grad_norm", readers.clipping),
    "neftune_noise_alpha": positive("training.neftune_alpha"),
    "seed": same("training.seed"),
    "max_steps": positive("training.max_steps"),
    "warmup_steps": by("training.warmup_steps", readers.warmup("lr_scheduler_type")),
    "warmup_ratio": by("training.schedule.warmup_ratio", readers.warmup("lr_scheduler_type", is_ratio=True)),
    "gradient_checkpointing": by("training.gradient_checkpointing", readers.checkpointing),
    "gradient_checkpointing_kwargs": differs("activations are always checkpointed without reentrance"),
    "save_steps": by("training.checkpoint_every_steps", save_steps, kind=Kind.DIFFERS),
    **strategy("training.checkpoint_at_epoch", "models are kept"),
    **strategy("", "validations"),
    "eval_steps": EVAL_STEPS,
    "logging_steps": differs(SHOWN),
    "bf16": by("training.precision", readers.precision("bf16"), kind=Kind.DIFFERS),
    "fp16": by("", readers.precision("fp16"), kind=Kind.ABSENT, note="training.precision is bf16 or fp32"),
    "tf32": differs("fp32 is computed as torch does by default"),
    "resume_from_checkpoint": differs("the same command goes on by itself"),
    "output_dir": differs("results lie under run_root, each run's in its own folder"),
    "overwrite_output_dir": differs("nothing that is done is overwritten: a run's folder has its key in its name"),
}

ARGUMENTS: Table = {
    **OPTIMIZER,
    **FSDP_CONFIG,
    "fsdp": FSDP,
    "fsdp_transformer_layer_cls_to_wrap": _WRAP,
    "fsdp_min_num_params": _WRAP,
    "per_device_train_batch_size": by(
        "training.effective_batch_size",
        readers.batch("per_device_train_batch_size", "gradient_accumulation_steps", ("packing", "neat_packing")),
        "samples on a device and in a minibatch there; here in a step over all ranks",
        Kind.DIFFERS,
    ),
    "gradient_accumulation_steps": differs("a factor of it", "training.effective_batch_size"),
    "num_train_epochs": same("training.num_epochs"),
    "lr_scheduler_type": by("training.lr_scheduler", readers.schedule),
    "lr_scheduler_kwargs": by("training.schedule", readers.schedule_arguments("learning_rate", "lr_scheduler_type")),
    "optim": by("training.optimizer", readers.optimizer),
    **each("optim_args optim_target_modules", absent("training.optimizer takes no arguments but these of AdamW")),
    "average_tokens_across_devices": differs("always: the loss is a sum over all tokens of a step that count"),
    "label_smoothing_factor": same("training.label_smoothing"),
    "activation_checkpointing": by("training.gradient_checkpointing", readers.checkpointing),
    "activation_checkpointing_kwargs": differs("activations are always checkpointed without reentrance"),
    "torch_compile": chosen("training.compile", {True: "regional", False: "none"}, "each repeated layer by itself"),
    **each("torch_compile_backend torch_compile_mode", absent("training.compile is inductor's, as it is by default")),
    "use_liger_kernel": same("training.use_liger"),
    "liger_kernel_config": absent("training.use_liger takes all of them that the model has"),
    **each("use_cache", differs("there is no cache of keys in training")),
    "torch_empty_cache_steps": absent("memory is planned before (sft plan), not given back on the way"),
    "auto_find_batch_size": absent("a minibatch is packed by training.max_tokens_per_gpu, which fits or is refused"),
    "report_to": by("training.tracking.trackers", trackers),
    "project": same("training.tracking.project"),
    "run_name": differs("name is the run's, and by default the recipe's"),
    **each(
        "logging_strategy logging_first_step logging_nan_inf_filter logging_dir log_on_each_node log_level "
        "log_level_replica disable_tqdm include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics",
        differs(SHOWN),
    ),
    **each("trackio_space_id trackio_bucket_id trackio_static_space_id", absent("no tracker called Trackio")),
    **each(
        "per_device_eval_batch_size eval_accumulation_steps eval_do_concat_batches batch_eval_metrics "
        "eval_use_gather_object prediction_loss_only bf16_full_eval fp16_full_eval include_for_metrics",
        differs("validations are computed as training is: packed, and in its precision"),
    ),
    **each("eval_delay eval_on_start", absent("validations are at ends of epochs, or every so many steps")),
    **SELECTION,
    "save_only_model": differs("full states are removed at the end; training.full_state_at_epoch=false makes none"),
    **each("save_on_each_node save_safetensors", differs("the model is saved once, as safetensors")),
    "enable_jit_checkpoint": differs("SIGTERM saves the state in any case"),
    **each(
        "push_to_hub hub_model_id hub_private_repo hub_strategy hub_always_push hub_revision hub_token", absent(HUB)
    ),
    **each(
        "ignore_data_skip restore_callback_states_from_checkpoint", differs("a resumed run is bit for bit the same")
    ),
    "full_determinism": same("training.deterministic"),
    "data_seed": same("training.data_seed"),
    "use_cpu": absent("ranks train on GPUs where there are some: training.launcher.gpus_per_worker"),
    "accelerator_config": differs(DDP),
    "parallelism_config": absent("training.context_parallel and training.fsdp say what is shared by ranks"),
    **each(
        "dataloader_drop_last dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names length_column_name "
        "train_sampling_strategy group_by_length",
        differs(LOADING),
    ),
    "dataloader_num_workers": same("training.num_loader_workers"),
    **each(
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend local_rank",
        differs(DDP),
    ),
    "ddp_timeout": differs("training.stall_timeout_seconds ends a run that writes nothing"),
    "deepspeed": by("training.fsdp", readers.sharding, "ZeRO's stage by the file's name", Kind.DIFFERS),
    "evaluation_strategy": OPTIMIZER["eval_strategy"],
    "debug": absent("sft --debug shows what it logs"),
    **each("do_train do_eval do_predict", differs("sft run does all: scores before, training, scores after")),
}
