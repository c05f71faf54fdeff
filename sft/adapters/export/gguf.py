"""GGUF: what a parent asks the writer and the reader, which are child processes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import stored_dtype
from sft.adapters.evaluation.as_saved import GENERATION_CONFIG, generation_settings
from sft.adapters.export import llama_quantize
from sft.adapters.os.process import run_module
from sft.errors import ConfigError, Problem, StageError

TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""What is written here; `llama_quantize.TYPES` are made of such a file."""
SCORED_AS = (
    "the file's own weights and tokenizer, read back and computed in fp32 by transformers; "
    "llama.cpp also rounds activations of q8_0 and of all types with fewer bits"
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


def check(kind: str, program: str | None = None) -> None:
    """Check what can be known before anything is written.

    Args:
        kind: What ``--type`` says.
        program: What ``--llama-quantize`` says; None = nothing.

    Raises:
        ConfigError: There is no such type, or nothing that makes it.
        StageError: The extra is not installed.
    """
    if kind not in (*TYPES, *llama_quantize.TYPES):
        rule = f"must be one of {', '.join(TYPES)}, or of those that llama-quantize makes: "
        rule += ", ".join(llama_quantize.TYPES)
        suggestion = "what llama.cpp makes with an importance matrix is not" if kind.startswith("iq") else None
        raise ConfigError([Problem(key="--type", value=kind, rule=rule, suggestion=suggestion)])
    if kind in llama_quantize.TYPES:
        llama_quantize.find(kind, program)
    elif program is not None:
        rule = f"does nothing: --type {kind} is written without it"
        raise ConfigError([Problem(key="--llama-quantize", value=program, rule=rule, suggestion="leave it out")])
    if importlib.util.find_spec("gguf") is None:
        raise StageError("--to gguf needs the package gguf", fix="pip install 'sft-runner[export-gguf]'")


def export(
    model_dir: Path,
    out: Path,
    work: Path,
    *,
    name: str,
    kind: str,
    held_out: Sequence[dict[str, str]],
    program: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> GgufFile:
    """Write a model as GGUF, and read it back.

    Args:
        model_dir: In Hugging Face layout.
        out: Folder that gets the file.
        work: Private folder.
        name: The model's.
        kind: One of `TYPES` (``auto`` = as the weights are saved), or of `llama_quantize.TYPES`.
        held_out: Sets of conversations, each with ``name`` and ``file``, on which prompt tokens are compared.
        program: ``llama-quantize``; None = the one in PATH. It makes some types, of a file as the weights are saved.
        tell: Called with what is waited for.

    Raises:
        StageError: The model can't be written so, or what is read back is not the same.
    """
    shared: dict[str, Any] = {"model_dir": str(model_dir), "saved_dtype": stored_dtype(model_dir)}
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"
    partial = out / "partial.gguf"
    module = "sft.adapters.export.gguf_writer"
    is_further = kind in llama_quantize.TYPES
    asked = {**shared, "file": str(partial), "type": "auto" if is_further else kind, "name": name}
    written = run_module(module, asked, folder=work / "writer", what="writing GGUF")
    if is_further:
        wider = partial.rename(work / "wider.gguf")
        found = llama_quantize.find(kind, program)
        log = work / "llama-quantize.txt"
        written["llama_quantize"] = llama_quantize.quantise(found, wider, partial, kind, log, tell)
        wider.unlink()
        written |= {"made_of": written["type"], "type": kind}
    file = partial.rename(out / f"{stem}-{written['type'].upper()}.gguf")
    module = "sft.adapters.export.gguf_reader"
    asked = {**shared, "file": str(file), "type": written["type"], "out": str(work / "model"), "held_out": [*held_out]}
    read = run_module(module, asked, folder=work / "reader", what="reading GGUF back")
    notes = [*written.pop("notes"), *read["prompts"].pop("notes")]
    widths = read.pop("widths")
    if is_further and (note := llama_quantize.narrow_note(kind, widths)):
        notes.append(note)
    return GgufFile(file, written["type"], work / "model", {**written, **read}, notes)


def not_carried(model_dir: Path) -> list[str]:
    """Return a note that names how a model is saved to write, which its GGUF file doesn't say; else nothing.

    Args:
        model_dir: In Hugging Face layout.
    """
    settings = ", ".join(f"{name}={value}" for name, value in generation_settings(model_dir).items())
    return [f"the file doesn't carry {GENERATION_CONFIG}'s {settings}: tell what runs it"] if settings else []
