"""Settings of axolotl."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sft.importing import axolotl_data, data_readers, readers
from sft.importing.axolotl_absent import ABSENT
from sft.importing.axolotl_data import ENTRY
from sft.importing.hugging_face import (
    CACHE,
    CONTINUED,
    FSDP,
    FSDP_CONFIG,
    LOADING,
    OPTIMIZER,
    SELECTION,
    SHOWN,
    save_steps,
)
from sft.importing.rows import (
    Found,
    Kind,
    Project,
    Row,
    Source,
    Table,
    absent,
    as_number,
    by,
    chosen,
    differs,
    each,
    is_off,
    missing,
    other,
    positive,
    same,
    taken,
)


def _has_adapters(source: Source) -> bool:
    return source.get("adapter") in ("lora", "qlora")


_SHARING = ("context_parallel_size|sequence_parallel_degree", "tensor_parallel_size")
"""How many devices have the same samples; two names of one thing have a bar between them."""

_lora = readers.of_adapters(_has_adapters)


def _adapter(value: Any, source: Source) -> Found:
    if value == "lora":
        settings = {} if source.number("lora_r") else {"training.lora.rank": 8}
        return taken(settings, "training.lora.rank above 0")
    if value == "qlora":
        return taken({"training.lora.quantize": "nf4_double_quant"}, "training.lora.rank above 0, the base in 4 bits")
    return taken({}, "every weight") if is_off(value) else missing("training.lora is LoRA; there are no other adapters")


def _length(value: Any, source: Source) -> Found:
    how = {"truncate": "truncate", "raise": "error"}.get(str(source.get("excess_length_strategy")), "drop")
    return readers.fits(how, _is_raw)(value, source)


def _is_raw(source: Source) -> bool:
    kinds = [value for key, value in source.values.items() if re.fullmatch(r"datasets\[\d+\]\.type", key)]
    return source.has("pretraining_dataset") or (bool(kinds) and all(axolotl_data.is_raw(kind) for kind in kinds))


def _ratio(value: Any, source: Source) -> Found:
    part, rate = as_number(value), source.number("learning_rate")
    if not part or rate is None or source.get("lr_scheduler") not in (None, "cosine"):
        return taken({}, "off") if not part else missing("training.schedule.min_learning_rate is of a cosine")
    settings = {"training.lr_scheduler": "cosine_with_min_lr", "training.schedule.min_learning_rate": part * rate}
    return taken(settings, f"{part:g} x learning_rate")


def _schedule(value: Any, source: Source) -> Found:
    if value == "cosine" and source.number("cosine_min_lr_ratio"):
        return taken({}, "with cosine_min_lr_ratio")
    return readers.schedule(value, source)


def _per_epoch(what: str) -> Row:
    def read(value: Any, _: Source) -> Found:
        if as_number(value) == 1:
            return taken({}, "at the end of each epoch, as by default")
        return (
            taken({}, "off")
            if is_off(value)
            else missing(f"{what} is a number of steps: `sft plan` says how many there are")
        )

    return by(what, read)


_TRACKERS = {
    "wandb_project": "wandb",
    "use_wandb": "wandb",
    "use_mlflow": "mlflow",
    "mlflow_experiment_name": "mlflow",
    "use_tensorboard": "tensorboard",
}


def _tracker() -> Row:
    def read(value: Any, source: Source) -> Found:
        if is_off(value):
            return taken({}, "off")
        names = dict.fromkeys(name for key, name in _TRACKERS.items() if not is_off(source.get(key)))
        settings: dict[str, Any] = {"training.tracking.trackers": list(names)}
        if isinstance(value, str):
            settings["training.tracking.project"] = value
        return taken(settings)

    return by("training.tracking", read)


def _targets(value: Any, source: Source) -> Found:
    if source.get("lora_target_linear") is True:
        return other({}, "lora_target_linear takes every linear layer besides, there too")
    return readers.target_modules(value, source)


def _linear(value: Any, source: Source) -> Found:
    return taken({}, "off") if is_off(value) else readers.target_modules(value, source)


def _liger(value: Any, _: Source) -> Found:
    if is_off(value):
        return taken({}, "off")
    return other({"training.use_liger": True}, "all of Liger's kernels that the model has")


def _layers(value: Any, _: Source) -> Found:
    if is_off(value):
        return taken({}, "off")
    return missing("training.freeze names what is not trained, in the place of what is")


_ROWS: Table = {
    **OPTIMIZER,
    **FSDP_CONFIG,
    "fsdp": FSDP,
    "fsdp_version": same("training.fsdp.version"),
    "deepspeed": by("training.fsdp", readers.sharding, "ZeRO's stage by the file's name", Kind.DIFFERS),
    "base_model": same("model.name_or_path"),
    "revision_of_model": same("model.revision"),
    "trust_remote_code": same("model.trust_remote_code"),
    "micro_batch_size": by(
        "training.effective_batch_size",
        readers.batch("micro_batch_size", "gradient_accumulation_steps", ("sample_packing",), _SHARING),
        "samples (packed rows with sample_packing) of a device and a minibatch; here samples in a step over all ranks",
        Kind.DIFFERS,
    ),
    "gradient_accumulation_steps": differs("a factor of it", "training.effective_batch_size"),
    "num_epochs": same("training.num_epochs"),
    "lr_scheduler": by("training.lr_scheduler", _schedule),
    "lr_scheduler_kwargs": by("training.schedule", readers.schedule_arguments("learning_rate", "lr_scheduler")),
    "cosine_min_lr_ratio": by("training.schedule.min_learning_rate", _ratio),
    "warmup_steps": by("training.warmup_steps", readers.warmup("lr_scheduler")),
    "warmup_ratio": by("training.schedule.warmup_ratio", readers.warmup("lr_scheduler", is_ratio=True)),
    "optimizer": by("training.optimizer", readers.optimizer),
    "adam_eps": same("training.adam_epsilon"),
    "noisy_embedding_alpha": positive("training.neftune_alpha"),
    "sequence_len": by("training.max_seq_len", _length, "here the first length that does not fit", Kind.DIFFERS),
    "pretraining_dataset": by("dataset.uri", axolotl_data.pretraining, data_readers.RAW, Kind.DIFFERS),
    "test_datasets": by(
        "eval.holdouts, training.validation_sets", axolotl_data.tests, data_readers.SCORED_TOO, Kind.DIFFERS
    ),
    "excess_length_strategy": differs("with sequence_len", "training.on_too_long"),
    "train_on_inputs": by("training.train_on", readers.prompts),
    "val_set_size": by(
        "training.validation_split", readers.held_out, "a share that is scored on the way", Kind.DIFFERS
    ),
    "evals_per_epoch": _per_epoch("training.validation_frequency"),
    "saves_per_epoch": _per_epoch("training.checkpoint_every_steps"),
    "save_steps": by("training.checkpoint_every_steps", save_steps, kind=Kind.DIFFERS),
    "evaluation_strategy": OPTIMIZER["eval_strategy"],
    **SELECTION,
    **each(
        "sample_packing eval_sample_packing batch_flattening",
        differs("always: samples share a row and never see each other"),
    ),
    **each(
        "pad_to_sequence_len pad_to_multiple_of sample_packing_group_size sample_packing_bin_size "
        "sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est multipack_real_batches "
        "sample_packing_seq_len_multiplier total_num_tokens total_supervised_tokens group_by_length",
        differs("minibatches are packed below training.max_tokens_per_gpu, without padding"),
    ),
    **each("bfloat16", by("training.precision", readers.precision("bf16"), kind=Kind.DIFFERS)),
    "float16": OPTIMIZER["fp16"],
    "float32": chosen("training.precision", {True: "fp32", False: "auto"}),
    "adapter": by("training.lora", _adapter, "lora and qlora"),
    "lora_r": _lora("training.lora.rank"),
    "lora_alpha": _lora("training.lora.alpha"),
    "lora_dropout": _lora("training.lora.dropout"),
    "lora_modules_to_save": _lora("training.lora.modules_to_save"),
    "lora_rank_pattern": _lora("training.lora.rank_pattern"),
    "lora_alpha_pattern": _lora("training.lora.alpha_pattern"),
    "peft_layers_to_transform": _lora("training.lora.layers"),
    "peft_use_rslora": _lora("training.lora.use_rslora"),
    "peft_use_dora": _lora("training.lora.use_dora"),
    "peft_init_lora_weights": _lora("training.lora.init", readers.lora_init),
    "lora_model_dir": CONTINUED,
    "lora_target_modules": _lora("training.lora.target_modules", _targets),
    "lora_target_linear": _lora("training.lora.target_modules", _linear),
    "load_in_4bit": by("training.lora.quantize", readers.quantized(_has_adapters)),
    "load_in_8bit": absent("the base model is not kept in 8 bits"),
    **each(
        "flash_attention sdp_attention xformers_attention eager_attention flex_attention sage_attention "
        "attn_implementation flash_optimum sdpa_varlen",
        differs("training.attention=auto takes the fastest that there is", "training.attention"),
    ),
    **each(
        "liger_rope liger_rms_norm liger_rms_norm_gated liger_layer_norm liger_swiglu liger_glu_activation "
        "liger_cross_entropy liger_fused_linear_cross_entropy",
        by("training.use_liger", _liger, "all of Liger's kernels", Kind.DIFFERS),
    ),
    "torch_compile": chosen("training.compile", {True: "regional", False: "none", "auto": "regional"}),
    **each("context_parallel_size sequence_parallel_degree", same("training.context_parallel")),
    "chat_template": differs(
        "the model's own chat template; model.chat_template=FILE is another", "model.chat_template"
    ),
    "chat_template_kwargs": same("model.chat_template_kwargs"),
    "default_system_message": same("dataset.system_prompt"),
    **each("tokens", same("model.add_tokens.plain")),
    "special_tokens.additional_special_tokens": same("model.add_tokens.special"),
    **each(
        "special_tokens.pad_token special_tokens.eos_token special_tokens.bos_token "
        "special_tokens.unk_token tokens.pad_token tokens.bos_token tokens.eos_token tokens.unk_token eot_tokens",
        differs("the tokenizer's and the template's own; minibatches have no padding to mark"),
    ),
    "unfrozen_parameters": by("", _layers, "training.freeze names what is not trained", Kind.ABSENT),
    **dict.fromkeys(_TRACKERS, _tracker()),
    "lm_eval_tasks": same("eval.tasks"),
    "dataloader_num_workers": same("training.num_loader_workers"),
    "dataset_exact_deduplication": differs("always: a row that is there twice counts once"),
    **each(
        "dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory is_preprocess "
        "skip_prepare_dataset preprocess_iterable",
        differs(CACHE),
    ),
    **each(
        "dataloader_pin_memory dataloader_prefetch_factor dataloader_drop_last remove_unused_columns "
        "shuffle_merged_datasets shuffle_before_merging_datasets",
        differs(LOADING),
    ),
    **each("eval_batch_size eval_sequence_len", differs("validations are computed as training is")),
    **each("auto_resume_from_checkpoints save_only_model save_safetensors", differs("a stopped run goes on by itself")),
    **each(
        "wandb_name wandb_run_id wandb_mode wandb_entity wandb_watch wandb_log_model mlflow_run_name "
        "mlflow_tracking_uri hf_mlflow_log_artifacts include_tokens_per_second include_tkps",
        differs(f"trackers' servers and names come from their own environment variables; {SHOWN}"),
    ),
    "tokenizer_type": differs("the model's own"),
    "type_of_model": differs("the model's own"),
    "model_type": differs("the model's own"),
    "plugins": differs("kernels are chosen by training.use_liger; a config names no code here"),
    **{f"datasets[].{key}": row for key, row in ENTRY.items()},
    **ABSENT,
}


def _prepared(source: Source) -> Source:
    """Fill in the warm-up that there is where a file says none, and the sets that it validates."""
    if tests := source.get("test_datasets"):
        source = data_readers.validating(source, axolotl_data.tests(tests, source))
    if source.has("warmup_steps") or source.has("warmup_ratio"):
        return source
    return replace(source, defaults={**source.defaults, "warmup_ratio": 0.03})


def _no_sft(source: Source) -> str | None:
    keys = ("rl", "reward_model", "process_reward_model", "diffusion", "hatchery", "kd_trainer")
    return next((key for key in keys if source.has(key) and not is_off(source.get(key))), None)


AXOLOTL = Project(
    name="axolotl",
    title="axolotl",
    rows=_ROWS,
    defaults={
        **{"micro_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 1.0, "lr_scheduler": "cosine"},
        **{"optimizer": "adamw_torch_fused", "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999},
        **{"adam_epsilon": 1e-8, "max_grad_norm": 1.0, "train_on_inputs": False, "sequence_len": 512, "seed": 42},
        **{"lora_dropout": 0.0},
    },
    tells=frozenset(
        [
            "base_model",
            "micro_batch_size",
            "sequence_len",
            "val_set_size",
            "sample_packing",
            "lora_target_linear",
            "num_epochs",
            "pad_to_sequence_len",
            "wandb_watch",
        ]
    ),
    datasets="datasets",
    prepare=_prepared,
    refuses=_no_sft,
)
