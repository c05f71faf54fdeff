"""The text of a recipe that `sft init` writes: complete, commented, ready to run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os import machine
from sft.artifacts import DatasetArtifact
from sft.config.json_schema import SCHEMA_FILE
from sft.config.strict_yaml import written
from sft.planning.recipe_choice import Fit, num_steps

_GIB = 2**30
_DEFAULT_LENGTH = 8_192
"""`training.max_seq_len`, which is written only where a sample is longer."""
_SLOW_ANSWERS = 64
_LORA = "  - override /training/lora: default   # adapters; remove it to train every weight"


@dataclass(frozen=True, kw_only=True)
class NewRecipe:
    """What was chosen.

    Attributes:
        uri: As it stands in the recipe.
        data: What was seen of it.
        settings: Of `dataset`, with which it is read: keys of the group, and values.
        fit: How the model fits this machine; None = not known.
        longest: Tokens of the longest sample; None = not counted.
        train_split: Part of `data` that trains; None = `settings` have divided it already.
    """

    uri: str
    data: DatasetArtifact
    settings: Mapping[str, Any]
    model: str
    fit: Fit | None
    lora: bool
    tasks: tuple[str, ...]
    batch: int
    epochs: int
    learning_rate: float
    longest: int | None
    train_split: float | None
    output: Path

    @property
    def holds_out(self) -> bool:
        """Whether rows are held out."""
        return self.data.num_eval > 0 if self.train_split is None else self.train_split < 1


def text_of(recipe: NewRecipe) -> str:
    """Return the YAML."""
    file, data = shlex.quote(recipe.output.name), recipe.data
    trained = math.floor(data.num_train * (recipe.train_split or 1.0))
    steps = num_steps(trained, recipe.batch, recipe.epochs)
    lines = [
        f"# {data.num_train:,} rows of {Path(data.source).name}, on {recipe.model}.",
        "#",
        f"#   sft plan {file}      what it will do, whether it fits, and why",
        f"#   sft run {file}       do it; the same command again continues",
        f"#   {'sft chat runs/NAME':{len(file) + 9}}      talk to the model; `sft run` prints the folder",
        "#",
        *_memory(recipe),
        f"# Steps:    about {steps} = {trained:,} samples / {recipe.batch} x {recipe.epochs} epochs.",
        "#",
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "defaults:",
        "  - config                      # all defaults; `sft plan --config` prints them",
        *([_LORA] if recipe.lora else []),
        "  # - override /registry: mlflow       # registers the model in runs/mlflow.db",
        "  - _self_",
        "",
        "dataset:",
        f"  uri: {written(recipe.uri)}",
        *_dataset(recipe),
        "",
        "model:",
        f"  name_or_path: {written(recipe.model)}",
        "",
        "training:",
        f"  num_epochs: {recipe.epochs}",
        f"  effective_batch_size: {recipe.batch}      # samples of one optimizer step",
        f"  learning_rate: {recipe.learning_rate:.1e}       # {_rate(recipe)}",
        f"  warmup_steps: {max(1, steps // 20)}",
        *_length(recipe),
        "",
        *_eval(recipe),
    ]
    return "\n".join(lines) + "\n"


def _memory(recipe: NewRecipe) -> list[str]:
    if recipe.fit is None:
        return ["# Memory:   not known before the model is here; `sft plan` says it then."]
    needed = recipe.fit.lora_bytes if recipe.lora else recipe.fit.full_bytes
    have = f", {recipe.fit.available_bytes / _GIB:.1f} GiB were free" if recipe.fit.available_bytes else ""
    return [f"# Memory:   {needed / _GIB:.1f} GiB or more for each process by the estimate{have}."]


def _rate(recipe: NewRecipe) -> str:
    return "usual for adapters" if recipe.lora else "usual for a model of this size; try half and double"


def _dataset(recipe: NewRecipe) -> list[str]:
    lines = []
    for key, value in recipe.settings.items():
        if isinstance(value, dict) and value:
            lines += [f"  {key}:", *(f"    {name}: {written(inner)}" for name, inner in value.items())]
        else:
            lines.append(f"  {key}: {written(value)}")
    if recipe.data.num_rejected and "on_invalid" not in recipe.settings:
        num = recipe.data.num_rejected
        broken = "1 row breaks" if num == 1 else f"{num:,} rows break"
        lines.append(f"  on_invalid: drop            # {broken} a rule; `sft data check` lists them")
    if recipe.train_split is not None:
        held = "a tenth is held out, and scored before and after" if recipe.holds_out else "too few to hold some out"
        lines.append(f"  train_split: {recipe.train_split}            # {held}")
    return lines


def _length(recipe: NewRecipe) -> list[str]:
    if recipe.longest is None or recipe.longest < _DEFAULT_LENGTH:
        return []
    return [f"  max_seq_len: {recipe.longest + 1}       # the longest sample; longer ones would not be trained"]


def _eval(recipe: NewRecipe) -> list[str]:
    tasks = f"  tasks: {written([*recipe.tasks])}"
    lines = ["eval:", tasks + ("" if recipe.tasks else "                   # such as [arc_easy, gsm8k]")]
    on_cpu = recipe.fit is not None and not recipe.fit.on_gpu
    if on_cpu and not machine.cpu_computes_bf16():
        lines.append("  model_args: {dtype: float32}     # scores in fp32: this CPU emulates bf16, slowly")
    if not recipe.holds_out:
        return [*lines, "  holdout:", "    enabled: false"]
    if on_cpu:
        lines += ["  holdout:", f"    max_new_tokens: {_SLOW_ANSWERS}          # of an answer: a CPU writes slowly"]
    return lines
