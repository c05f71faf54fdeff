"""Settings of TRL's `trl sft`: of its script, its `ModelConfig`, its `SFTConfig`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sft.importing import data_readers, readers
from sft.importing.hugging_face import ARGUMENTS, CACHE
from sft.importing.rows import (
    Found,
    Kind,
    Project,
    Source,
    Table,
    absent,
    by,
    chosen,
    differs,
    each,
    missing,
    other,
    same,
    taken,
)

_OTHERS = (
    *("beta", "max_prompt_length", "ref_model_init_kwargs", "precompute_ref_log_probs", "reference_free"),
    *("reward_funcs", "reward_model_path", "reward_model_name_or_path", "num_generations", "max_completion_length"),
    *("desirable_weight", "undesirable_weight", "center_rewards_coefficient", "teacher_model_name_or_path"),
)
"""Keys of its trainers of preferences, rewards and distillation."""


def _has_adapters(source: Source) -> bool:
    return source.get("use_peft") is True


_lora = readers.of_adapters(_has_adapters)


def _quantization(source: Source) -> str:
    """Return which `training.lora.quantize` is meant; empty = one that is not here."""
    if source.get("bnb_4bit_quant_type") not in (None, "nf4"):
        return ""
    return "nf4_double_quant" if source.get("use_bnb_nested_quant") is True else "nf4"


def _dataset(value: Any, source: Source) -> Found:
    uri = data_readers.data_uri(value, source.get("dataset_config"))
    if source.has("datasets"):
        return taken({}, "datasets are read in its place, there too")
    return taken({"dataset.uri": uri}) if uri else missing("dataset.uri")


def _path(value: Any, source: Source) -> Found:
    return data_readers.place(value, source, source.item.get("name"))


def _held_out(value: Any, source: Source) -> Found:
    if source.get("eval_strategy") in (None, "no", False) or not source.get("dataset_name"):
        return taken({}, "nothing is evaluated there")
    if "[" in str(value):
        return missing(data_readers.SLICED)
    if _is_raw(source):
        return missing("raw text that is held out is not scored; training.validation_split gives a loss on the way")
    uri = data_readers.data_uri(source.get("dataset_name"), source.get("dataset_config"))
    found = other({"eval.holdouts.test.uri": uri, "eval.holdouts.test.split": value})
    return data_readers.on_the_way(found, are_validated=True)


def _length(value: Any, source: Source) -> Found:
    if source.get("truncation_mode") == "keep_end":
        return missing("training.on_too_long=truncate keeps the beginning")
    return readers.fits("truncate", _is_raw)(value, source)


def _answers(value: Any, source: Source) -> Found:
    if value is True:
        return taken({"training.train_on": "all_turns"})
    if source.has("completion_only_loss"):
        return taken({}, "as completion_only_loss says")
    note = "there every token of messages counts, and of a prompt with a completion only this; here each turn of the "
    return other({}, note + "assistant: training.train_on=everything counts all")


def _completions(value: Any, source: Source) -> Found:
    if value is True or source.get("assistant_only_loss") is True:
        return other({"training.train_on": "all_turns"}, "each turn of the assistant")
    return other({"training.train_on": "everything"}, "every token of a conversation but the first")


def _text_field(value: Any, _: Source) -> Found:
    settings = {"dataset.format": "text", "dataset.columns.text": value}
    return other(settings, f"{data_readers.RAW}; of rows that are conversations leave dataset.format out")


def _targets(value: Any, source: Source) -> Found:
    found = readers.target_modules(value, source)
    if source.has("lora_target_modules"):
        return found
    return other(found.settings, "peft's of most architectures; null in their place = every linear layer")


def _with_targets(source: Source) -> Source:
    """Fill in the layers that peft adapts where a file names none."""
    if not _has_adapters(source):
        return source
    return replace(source, defaults={**source.defaults, "lora_target_modules": ["q_proj", "v_proj"]})


def _prepared(source: Source) -> Source:
    """Fill in the layers of adapters, and the split that a file validates."""
    if split := source.get("dataset_test_split"):
        source = data_readers.validating(source, _held_out(split, source))
    return _with_targets(source)


def _no_sft(source: Source) -> str | None:
    """Return what a file of another of TRL's trainers has."""
    return next((key for key in _OTHERS if source.has(key)), None)


def _is_raw(source: Source) -> bool:
    return source.has("dataset_text_field")


def _dtype(_: Any, __: Source) -> Found:
    return other({}, "weights are fp32 in training; training.precision is the arithmetic")


_DATASETS: Table = {
    "path": by("dataset.uri", _path),
    "split": by("dataset.split", data_readers.split_name),
    **each("name data_files", differs("with the dataset's path", "dataset.uri")),
    "data_dir": absent("a folder is named by its path in dataset.uri"),
    "columns": absent("dataset.columns names columns; dataset.format=auto looks at the first row"),
}

_ROWS: Table = {
    **ARGUMENTS,
    "model_name_or_path": same("model.name_or_path"),
    "model_revision": same("model.revision"),
    "trust_remote_code": same("model.trust_remote_code"),
    "dtype": by("training.precision", _dtype, "weights are fp32 in training", Kind.DIFFERS),
    "torch_dtype": by("training.precision", _dtype, "weights are fp32 in training", Kind.DIFFERS),
    "env": absent("training.env, which is recorded: nothing secret belongs there"),
    "attn_implementation": differs("training.attention=auto takes the fastest that there is", "training.attention"),
    "use_peft": differs("training.lora.rank above 0", "training.lora"),
    "lora_r": _lora("training.lora.rank"),
    "lora_alpha": _lora("training.lora.alpha"),
    "lora_dropout": _lora("training.lora.dropout"),
    "lora_target_modules": _lora("training.lora.target_modules", _targets),
    "lora_modules_to_save": _lora("training.lora.modules_to_save"),
    "use_rslora": _lora("training.lora.use_rslora"),
    "use_dora": _lora("training.lora.use_dora"),
    "lora_target_parameters": absent("fused experts are adapted where training.lora.target_modules is null"),
    "lora_task_type": chosen("", {"CAUSAL_LM": ""}),
    **each(
        "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
        differs("with load_in_4bit; packed weights are whole on each rank"),
    ),
    "load_in_4bit": by("training.lora.quantize", readers.quantized(_has_adapters, _quantization)),
    "load_in_8bit": absent("the base model is kept in 16 or 4 bits: training.lora.quantize"),
    "dataset_name": by("dataset.uri", _dataset),
    "dataset_config": differs("in the dataset's uri, after the colon", "dataset.uri"),
    "dataset_train_split": by("dataset.split", data_readers.split_name),
    "dataset_test_split": by(
        "eval.holdouts, training.validation_sets", _held_out, data_readers.SCORED_TOO, Kind.DIFFERS
    ),
    **each("dataset_streaming streaming", absent("data is read whole before training")),
    "test_split_size": absent("dataset.train_split holds a part out"),
    "ignore_bias_buffers": differs("a workaround for DDP, which isn't used"),
    **{f"datasets[].{key}": row for key, row in _DATASETS.items()},
    "model_init_kwargs": absent("the model is loaded as its files say"),
    "router_aux_loss_coef": absent("routers of experts get no loss of their own"),
    "chat_template_path": same("model.chat_template"),
    "dataset_text_field": by("dataset.columns.text", _text_field, "where it is said, rows are raw text", Kind.DIFFERS),
    "dataset_kwargs": absent("rows are read and tokenized in one way: docs/data.md"),
    "dataset_num_proc": differs(CACHE),
    "eos_token": absent("the tokenizer's and the template's own"),
    "pad_token": differs("minibatches have no padding to mark"),
    "max_length": by("training.max_seq_len", _length, "here the first length that does not fit", Kind.DIFFERS),
    "max_seq_length": by("training.max_seq_len", _length, "here the first length that does not fit", Kind.DIFFERS),
    "truncation_mode": differs("with max_length", "training.on_too_long"),
    "shuffle_dataset": differs("each epoch has an order of its own, by training.seed"),
    **each(
        "packing packing_strategy padding_free pad_to_multiple_of eval_packing",
        differs("always: samples share a row and never see each other; none is cut for it"),
    ),
    "completion_only_loss": by("training.train_on", _completions),
    "assistant_only_loss": by("training.train_on", _answers),
    "loss_type": chosen("training.loss", {"nll": "cross_entropy", "dft": "dft", "chunked_nll": "cross_entropy"}),
    "activation_offloading": absent("activations stay on the device, or are computed again"),
}

TRL = Project(
    name="trl",
    title="TRL",
    rows=_ROWS,
    defaults={
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0},
        **{"learning_rate": 2e-5, "lr_scheduler_type": "linear", "optim": "adamw_torch_fused", "weight_decay": 0.0},
        **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "seed": 42},
        **{
            "max_length": 1024,
            "assistant_only_loss": False,
            "dataset_train_split": "train",
            "dataset_test_split": "test",
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.05,
        },
    },
    tells=frozenset(
        [
            "dataset_name",
            "dataset_config",
            "dataset_train_split",
            "dataset_test_split",
            "use_peft",
            "max_length",
            "assistant_only_loss",
            "completion_only_loss",
            "dataset_text_field",
            "dataset_num_proc",
            "lora_task_type",
        ]
    ),
    datasets="datasets",
    nulls={"max_length": data_readers.UNCUT},
    prepare=_prepared,
    refuses=_no_sft,
)
