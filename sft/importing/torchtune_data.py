"""Entries of torchtune's `dataset`: where rows are, and how they become conversations."""

from __future__ import annotations

import re
from typing import Any

from sft.importing import data_readers
from sft.importing.hugging_face import PICTURES
from sft.importing.rows import (
    Found,
    Kind,
    Source,
    Table,
    absent,
    by,
    differs,
    each,
    is_off,
    missing,
    named,
    other,
    same,
    taken,
)

_SOURCES = {
    "alpaca_dataset": ("hf://tatsu-lab/alpaca", "alpaca"),
    "alpaca_cleaned_dataset": ("hf://yahma/alpaca-cleaned", "alpaca"),
    "slimorca_dataset": ("hf://Open-Orca/SlimOrca-Dedup", "conversations"),
    "chat_dataset": (None, None),
    "instruct_dataset": (None, "prompt_completion"),
    "text_completion_dataset": (None, "text"),
}
"""Where the rows of torchtune's own datasets are, and how they spell a conversation."""


def _rows(value: Any, source: Source) -> Found:
    name = str(value).rpartition(".")[2]
    if name not in _SOURCES:
        return missing(f"{source.prefix}uri and format: no dataset of this name is known")
    uri, form = _SOURCES[name]
    settings: dict[str, Any] = {}
    if uri and not source.item.get("source"):
        settings[f"{source.prefix}uri"] = uri
    if form:
        settings[f"{source.prefix}format"] = form
    if form == "text":
        return other(settings, data_readers.RAW)
    note = "rows become turns of a chat, which the model's own chat template writes"
    if name.startswith("alpaca") and source.item.get("train_on_input") is None:
        settings["training.train_on"] = "everything"
        note += "; its prompts count for the loss there by default"
    return other(settings, note)


def _source(value: Any, source: Source) -> Found:
    return data_readers.place(value, source, source.item.get("subset") or source.item.get("name"))


def _style(value: Any, source: Source) -> Found:
    known = {"sharegpt": "conversations", "openai": "messages"}
    return taken({f"{source.prefix}format": known[value]}) if named(value, known) else missing(f"{source.prefix}format")


def _column(value: Any, source: Source) -> Found:
    return taken({f"{source.prefix}columns.messages": value})


def _columns(value: Any, source: Source) -> Found:
    if not isinstance(value, dict) or set(value) - {"input", "output"}:
        return missing(f"{source.prefix}columns")
    names = {"input": "prompt", "output": "completion"}
    return taken({f"{source.prefix}columns.{names[key]}": column for key, column in value.items()})


def _text_column(value: Any, source: Source) -> Found:
    return taken({f"{source.prefix}columns.text": value})


def _end(value: Any, _: Source) -> Found:
    return taken({}, "as here") if value is True else missing("a text always ends with the tokenizer's eos_token")


def tests(value: Any, source: Source) -> Found:
    """Read sets that are evaluated and not trained."""
    is_validated = not is_off(source.get("run_val_every_n_steps"))
    return data_readers.held_out_sets(value, ENTRY, source, are_validated=is_validated)


def is_raw(source: Source) -> bool:
    """Return whether a file trains raw text and nothing else."""
    kinds = [value for key, value in source.values.items() if re.fullmatch(r"dataset(\[\d+\])?\._component_", key)]
    return bool(kinds) and all(str(kind).rpartition(".")[2] == "text_completion_dataset" for kind in kinds)


def _input(value: Any, _: Source) -> Found:
    return taken({"training.train_on": "everything" if value is True else "all_turns"})


ENTRY: Table = {
    "_component_": by("dataset.uri, dataset.format", _rows, "torchtune's own datasets by name", Kind.DIFFERS),
    "source": by("dataset.uri", _source),
    "split": by("dataset.split", data_readers.split_name),
    **each("subset name data_files", differs("with the dataset's source", "dataset.uri")),
    "conversation_column": by("dataset.columns.messages", _column),
    "conversation_style": by("dataset.format", _style),
    "column_map": by("dataset.columns", _columns),
    "train_on_input": by("training.train_on", _input),
    "new_system_prompt": same("dataset.system_prompt"),
    "packed": differs("always: samples share a row and never see each other"),
    **each("weight", differs("all rows of each source train; dataset.mixing=proportional takes weights")),
    **each("transform transform._component_ image_tag image_dir", absent(PICTURES)),
    "column": by("dataset.columns.text", _text_column),
    "add_eos": by("", _end, "a text always ends with the tokenizer's eos_token"),
    "split_across_pack": differs("a long text is divided, and no piece of it is cut for a pack"),
    **each("filter_fn max_seq_len partition", absent("rows are not filtered; training.max_seq_len is of all")),
}
