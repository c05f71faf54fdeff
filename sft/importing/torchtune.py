"""Settings of torchtune, whose `_component_` names code there; here it is read as a name, and nothing is imported."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sft.importing import data_readers, readers, torchtune_data
from sft.importing.hugging_face import METHOD, PICTURES, SHOWN
from sft.importing.rows import (
    Found,
    Kind,
    Project,
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
    named,
    other,
    same,
    taken,
)
from sft.importing.torchtune_data import ENTRY

_NAME = re.compile(r"\$\{([A-Za-z_][\w.]{0,100})\}")
_DEEPEST = 5
_BUILDERS = ("lora_", "qlora_", "dora_", "qdora_")
_OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.adamw.AdamW": "adamw",
    "torch.optim.Adafactor": "adafactor",
    "torch.optim.Muon": "muon",
}
_SMALL_STATES = ("PagedAdamW", "PagedAdamW8bit", "AdamW8bit", "PagedAdamW32bit", "AdamW4bit", "CPUOffloadOptimizer")
_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}


def _validates(value: Any, source: Source) -> Found:
    number = as_number(value)
    if is_off(value):
        return taken({}, "off")
    if not source.validated_sets or number is None or not number.is_integer():
        return missing("training.validation_frequency is a number of steps, and needs rows to validate on: dataset_val")
    return taken({"training.validation_frequency": int(number)})


def _last(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _has_adapters(source: Source) -> bool:
    return source.number("model.lora_rank") is not None


_lora = readers.of_adapters(_has_adapters)


def _model(value: Any, _: Source) -> Found:
    name = _last(value)
    if name.startswith(("qlora_", "qdora_")):
        dora = {"training.lora.use_dora": True} if name.startswith("qdora_") else {}
        return taken(
            {"training.lora.quantize": "nf4_double_quant", **dora}, "the architecture of the folder, in 4 bits"
        )
    return taken({}, "the architecture that the checkpointer's folder says")


def _checkpointer(value: Any, _: Source) -> Found:
    if _last(value) == "FullModelHFCheckpointer":
        return taken({}, "a folder in the format of the hub")
    return missing("model.name_or_path is a folder in the format of the hub, with config.json and safetensors")


def _modules(value: Any, source: Source) -> Found:
    if not isinstance(value, list) or not all(named(name, _ATTENTION) for name in value):
        return missing("training.lora.target_modules")
    names = [_ATTENTION[name] for name in value]
    if source.get("model.apply_lora_to_mlp") is True:
        names += ["gate_proj", "up_proj", "down_proj"]
    return taken({"training.lora.target_modules": names})


def _head(value: Any, _: Source) -> Found:
    return taken({}, "off") if is_off(value) else missing("training.lora adapts layers, not the head of the model")


def _optimizer(value: Any, _: Source) -> Found:
    if named(value, _OPTIMIZERS):
        return taken({"training.optimizer": _OPTIMIZERS[value]})
    if _last(value) in _SMALL_STATES:
        return other({"training.optimizer": "adamw"}, "with whole states, which take more memory and are sharded")
    return missing("training.optimizer has adamw, adafactor, lion and muon; adamw is taken")


def _betas(value: Any, _: Source) -> Found:
    if not isinstance(value, list) or len(value) != 2:
        return missing("training.beta1 and training.beta2")
    return taken({"training.beta1": value[0], "training.beta2": value[1]})


def _schedule(value: Any, _: Source) -> Found:
    if _last(value) == "get_cosine_schedule_with_warmup":
        return taken({"training.lr_scheduler": "cosine"})
    return taken({"training.lr_scheduler": "constant"}) if value == "none" else missing("training.lr_scheduler")


def _cycles(value: Any, _: Source) -> Found:
    return taken({}, "half a cosine") if as_number(value) == 0.5 else missing("training.schedule")


def _loss(value: Any, _: Source) -> Found:
    if _last(value) in ("LinearCrossEntropyLoss", "CEWithChunkedOutputLoss", "CrossEntropyLoss"):
        return taken({"training.loss": "cross_entropy"})
    return missing("training.loss is cross_entropy or dft")


def _steps(value: Any, source: Source) -> Found:
    per_epoch, epochs = as_number(value), source.number("epochs") or 1
    if not per_epoch:
        return taken({}, "off")
    note = f"epochs {epochs:g} x max_steps_per_epoch {per_epoch:g}, also where an epoch is shorter"
    return other({"training.max_steps": int(per_epoch * epochs)}, note)


def _clipped(value: Any, source: Source) -> Found:
    return readers.clipping(value, source)


def _compile(value: Any, _: Source) -> Found:
    if not isinstance(value, bool):
        return missing("training.compile is none or regional")
    return taken({"training.compile": "regional"} if value else {})


def _dtype(value: Any, _: Source) -> Found:
    if value not in ("bf16", "fp32"):
        return missing("training.precision is bf16 or fp32")
    note = "in the arithmetic; weights and optimizer states stay fp32, which are bf16 there" if value == "bf16" else ""
    return Found(Kind.DIFFERS if note else Kind.TAKEN, {"training.precision": value}, note)


_OWN_TOKENIZER = differs("the model's own tokenizer and chat template, of the checkpointer's folder")
_LORA = {
    key: _lora(f"training.lora.{ours}")
    for key, ours in (("model.lora_rank", "rank"), ("model.lora_alpha", "alpha"), ("model.lora_dropout", "dropout"))
}

_ROWS: Table = {
    "output_dir": differs("results lie under run_root, each run's in its own folder"),
    "model._component_": by("model.name_or_path", _model, "the folder of the checkpointer says it", Kind.DIFFERS),
    **_LORA,
    "model.lora_attn_modules": by("training.lora.target_modules", _modules),
    "model.apply_lora_to_mlp": differs("with lora_attn_modules", "training.lora.target_modules"),
    "model.apply_lora_to_output": by("", _head, kind=Kind.ABSENT, note="the model's head gets no adapter"),
    "model.use_dora": _lora("training.lora.use_dora"),
    "model.quantize_base": by("training.lora.quantize", readers.quantized(_has_adapters)),
    **each(
        "model.decoder_trainable model.encoder_trainable model.fusion_trainable model.image_size tokenizer.image_size "
        "tokenizer.max_num_tiles collate_fn",
        absent(PICTURES),
    ),
    **each(
        "tokenizer._component_ tokenizer.path tokenizer.merges_file tokenizer.vocab_path tokenizer.merges_path "
        "tokenizer.special_tokens_path tokenizer.prompt_template",
        _OWN_TOKENIZER,
    ),
    "tokenizer.max_seq_len": by(
        "training.max_seq_len",
        readers.fits("truncate", torchtune_data.is_raw),
        "here the first length that does not fit",
        Kind.DIFFERS,
    ),
    "checkpointer._component_": by("model.name_or_path", _checkpointer),
    "checkpointer.checkpoint_dir": same("model.name_or_path"),
    **each(
        "checkpointer.checkpoint_files checkpointer.checkpoint_files.filename_format "
        "checkpointer.checkpoint_files.max_filename checkpointer.model_type checkpointer.output_dir "
        "checkpointer.safe_serialization",
        differs("the model's folder says it"),
    ),
    **each("checkpointer.recipe_checkpoint resume_from_checkpoint", differs("the same command goes on by itself")),
    "checkpointer.adapter_checkpoint": absent(
        "an adapter in PEFT's format is: model.adapter, model.adapter_use=continued"
    ),
    "batch_size": by(
        "training.effective_batch_size",
        readers.batch(
            "batch_size", "gradient_accumulation_steps", sharing=("tensor_parallel_dim", "context_parallel_dim")
        ),
        "samples on a device and in a minibatch there; here in a step over all ranks",
        Kind.DIFFERS,
    ),
    "gradient_accumulation_steps": differs("a factor of it", "training.effective_batch_size"),
    "epochs": same("training.num_epochs"),
    "max_steps_per_epoch": by("training.max_steps", _steps, "of each epoch there", Kind.DIFFERS),
    "optimizer._component_": by("training.optimizer", _optimizer),
    "optimizer.lr": same("training.learning_rate"),
    "optimizer.weight_decay": by(
        "training.weight_decay",
        lambda value, _: taken(
            {"training.weight_decay": value, "training.weight_decay_on": "all"}, "of all parameters"
        ),
    ),
    "optimizer.betas": by("training.beta1, training.beta2", _betas),
    "optimizer.eps": same("training.adam_epsilon"),
    "optimizer.fused": differs("fused where torch has it"),
    "optimizer_in_bwd": absent("a step is made when all of its minibatches are through"),
    "lr_scheduler._component_": by("training.lr_scheduler", _schedule),
    "lr_scheduler.num_warmup_steps": by("training.warmup_steps", readers.warmup("lr_scheduler.name")),
    "lr_scheduler.num_cycles": by("training.schedule", _cycles),
    "loss._component_": by("training.loss", _loss),
    **each("loss.num_output_chunks loss.ignore_index", differs("the loss is computed in parts where it saves memory")),
    "clip_grad_norm": by("training.max_grad_norm", _clipped),
    "compile": by("training.compile", _compile, "each repeated layer by itself"),
    "enable_activation_checkpointing": by("training.gradient_checkpointing", readers.checkpointing),
    "ac_mode": chosen("training.gradient_checkpointing", {"selective": "selective", "full": "full", "none": "none"}),
    "ac_option": differs("selective = every second layer"),
    "enable_activation_offloading": absent("activations stay on the device, or are computed again"),
    "dtype": by("training.precision", _dtype, "weights and optimizer states stay fp32", Kind.DIFFERS),
    "device": differs("ranks train on GPUs where there are some, else on the CPU"),
    "seed": same("training.seed"),
    "shuffle": chosen("", {True: ""}),
    "cudnn_deterministic_mode": differs("training.deterministic"),
    "fsdp_cpu_offload": same("training.fsdp.cpu_offload_params"),
    **each(
        "fsdp_reshard_after_forward",
        chosen("training.fsdp.sharding_strategy", {True: "FULL_SHARD", False: "SHARD_GRAD_OP"}),
    ),
    **each(
        "custom_sharded_layers memory_efficient_fsdp_wrap low_cpu_ram data_parallel_shard_dim "
        "data_parallel_replicate_dim",
        differs("FSDP wraps each layer, and shards by training.fsdp"),
    ),
    **each(
        "tensor_parallel_dim tensor_parallel_plan._component_ context_parallel_dim",
        absent("training.context_parallel shares rows; there is no tensor parallelism"),
    ),
    "save_adapter_weights_only": differs("the adapter stays beside the merged model"),
    **each(
        "save_every_n_epochs keep_last_n_checkpoints",
        differs("the model of each epoch is kept: training.checkpoint_at_epoch"),
    ),
    **each(
        "metric_logger._component_ metric_logger.log_dir metric_logger.project metric_logger.name "
        "metric_logger.group log_every_n_steps log_peak_memory_stats log_level",
        differs(SHOWN),
    ),
    **each(
        "profiler._component_ profiler.enabled profiler.output_dir profiler.cpu profiler.cuda profiler.profile_memory "
        "profiler.with_stack profiler.record_shapes profiler.with_flops profiler.wait_steps profiler.warmup_steps "
        "profiler.active_steps profiler.num_cycles",
        differs("training.profile traces steps: first_step, num_steps"),
    ),
    **each(
        "quantizer quantizer._component_ quantizer.groupsize fake_quant_after_n_steps",
        absent("weights are trained whole; `sft export RUN --to fp8` makes 8-bit ones"),
    ),
    "run_val_every_n_steps": by("training.validation_frequency", _validates),
    **each("batch_size_val", differs("validations are computed as training is")),
    **each(
        "dataset_val",
        by("eval.holdouts, training.validation_sets", torchtune_data.tests, data_readers.SCORED_TOO, Kind.DIFFERS),
    ),
    **{f"dataset[].{key}": row for key, row in ENTRY.items()},
    **each("teacher_model teacher_checkpointer kd_loss kd_ratio", absent(METHOD)),
}


def _prepared(source: Source) -> Source:
    """Fill in names of other settings, what a builder of adapters takes where a file says nothing, validated sets."""
    source = _resolved(source)
    if sets := source.get("dataset_val"):
        source = data_readers.validating(source, torchtune_data.tests(sets, source))
    name = _last(source.get("model._component_"))
    if not name.startswith(_BUILDERS):
        return source
    defaults: dict[str, Any] = {"model.lora_rank": 8, "model.lora_alpha": 16, "model.lora_dropout": 0.0}
    if "dora_" in name:
        defaults["model.use_dora"] = True
    return replace(source, defaults={**source.defaults, **defaults})


def _resolved(source: Source) -> Source:
    """Fill in names of other settings, as OmegaConf does; nothing else that `${}` may say."""

    def fill(value: Any, depth: int) -> Any:
        if not isinstance(value, str) or depth > _DEEPEST or len(value) > 10_000:
            return value
        if (whole := _NAME.fullmatch(value)) and whole[1] in source.values:
            return fill(source.values[whole[1]], depth + 1)
        return _NAME.sub(lambda found: str(fill(source.values.get(found[1], found[0]), depth + 1)), value)

    return replace(source, values={key: fill(value, 0) for key, value in source.values.items()})


def _no_sft(source: Source) -> str | None:
    """Return what a recipe of another kind has, or what every training has and this has not."""
    others = ("teacher_model", "kd_loss", "ppo_epochs", "policy_model", "grpo_samples", "reward_functions")
    if found := next((key for key in others if source.has(key)), None):
        return found
    if "DPO" in str(source.get("loss._component_")) or "GRPO" in str(source.get("loss._component_")):
        return "loss._component_"
    return None if source.has("dataset") or source.has("optimizer") else "dataset"


TORCHTUNE = Project(
    name="torchtune",
    title="torchtune",
    rows=_ROWS,
    defaults={
        **{"batch_size": 1, "gradient_accumulation_steps": 1, "epochs": 1, "optimizer.weight_decay": 0.01},
        **{"optimizer.betas": [0.9, 0.999], "clip_grad_norm": 0, "lr_scheduler._component_": "none"},
    },
    tells=frozenset(
        {"tokenizer._component_", "model._component_", "optimizer._component_", "checkpointer._component_"}
    ),
    datasets="dataset",
    nulls={"tokenizer.max_seq_len": data_readers.UNCUT},
    prepare=_prepared,
    refuses=_no_sft,
)
