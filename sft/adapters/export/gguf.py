"""GGUF: what a parent asks the writer and the reader, which are child processes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import stored_dtype
from sft.adapters.os.process import run_module
from sft.errors import ConfigError, Problem, StageError

TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
SCORED_AS = (
    "the file's own weights and tokenizer, read back and computed in fp32 by transformers; "
    "llama.cpp also rounds activations of q8_0"
)


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file that was written and read back.

    Attributes:
        kind: Type of its matrices.
        model_dir: The model that was read back, in Hugging Face layout, to be scored.
        details: What writer and reader found.
        notes: What the file doesn't carry, a line each.
    """

    file: Path
    kind: str
    model_dir: Path
    details: dict[str, Any]
    notes: list[str]


def check(kind: str) -> None:
    """Check what can be known before anything is written.

    Raises:
        ConfigError: There is no such type, or none that is written here.
        StageError: The extra is not installed.
    """
    if kind not in TYPES:
        is_k_quant = re.fullmatch(r"i?q[2-6]_(k(_[sml])?|[01]|nl|xx?s|[sm])", kind)
        rule = f"must be one of {', '.join(TYPES)}"
        suggestion = None
        if is_k_quant:
            rule += "; fewer bits are made by llama.cpp alone, of which no package has the program"
            suggestion = f"--type f16, then `llama-quantize FILE.gguf OUT.gguf {kind.upper()}`; that file is not scored"
        raise ConfigError([Problem(key="--type", value=kind, rule=rule, suggestion=suggestion)])
    if importlib.util.find_spec("gguf") is None:
        raise StageError("--to gguf needs the package gguf", fix="pip install 'sft-runner[export-gguf]'")


def export(
    model_dir: Path, out: Path, work: Path, *, name: str, kind: str, held_out: Sequence[dict[str, str]]
) -> GgufFile:
    """Write a model as GGUF, and read it back.

    Args:
        model_dir: In Hugging Face layout.
        out: Folder that gets the file.
        work: Private folder.
        name: The model's.
        kind: One of `TYPES`; ``auto`` = as the weights are saved.
        held_out: Sets of conversations, each with ``name`` and ``file``, on which prompt tokens are compared.

    Raises:
        StageError: The model can't be written so, or what is read back is not the same.
    """
    shared: dict[str, Any] = {"model_dir": str(model_dir), "saved_dtype": stored_dtype(model_dir)}
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
    partial = out / "partial.gguf"
    module = "sft.adapters.export.gguf_writer"
    asked = {**shared, "file": str(partial), "type": kind, "name": name}
    written = run_module(module, asked, folder=work / "writer", what="writing GGUF")
    file = partial.rename(out / f"{stem}-{written['type'].upper()}.gguf")
    module = "sft.adapters.export.gguf_reader"
    asked = {**shared, "file": str(file), "type": written["type"], "out": str(work / "model"), "held_out": [*held_out]}
    read = run_module(module, asked, folder=work / "reader", what="reading GGUF back")
    notes = [*written.pop("notes"), *read["prompts"].pop("notes")]
    return GgufFile(file, written["type"], work / "model", {**written, **read}, notes)
