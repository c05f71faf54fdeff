"""compressed-tensors: what a parent asks the writer of 8-bit weights, which is a child process."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import CONFIG, read_json
from sft.adapters.os.process import run_module
from sft.errors import ConfigError, Problem, StageError

SCORED_AS = (
    "the written folder, loaded by transformers with compressed-tensors: weights and activations rounded to 8 bits, "
    "computed in the type that the model is saved in"
)


def check(kind: str, chosen: str) -> None:
    """Check what can be known before anything is written.

    Args:
        kind: ``fp8`` or ``int8``.
        chosen: What ``--type`` says.

    Raises:
        ConfigError: A type is given besides.
        StageError: The extra is not installed.
    """
    if chosen != "auto":
        rule = f"does nothing: --to {kind} says the type"
        raise ConfigError([Problem(key="--type", value=chosen, rule=rule, suggestion="leave it out")])
    if importlib.util.find_spec("compressed_tensors") is None:
        message = f"--to {kind} needs the package compressed-tensors, which loads the result to be scored"
        raise StageError(message, fix="pip install 'sft-runner[export-compressed]'")


def export(
    model_dir: Path,
    out: Path,
    work: Path,
    *,
    kind: str,
    trust_remote_code: bool,
    leave_out: Sequence[str],
    held_out: Sequence[dict[str, str]],
) -> dict[str, Any]:
    """Write a model with 8-bit weights.

    Args:
        model_dir: In Hugging Face layout.
        out: Folder that gets the same.
        work: Private folder.
        kind: ``fp8`` or ``int8``.
        trust_remote_code: Whether the model's own code may run.
        leave_out: Names of files that tell of the original.
        held_out: Sets of conversations, each with ``name`` and ``file``, on which prompt tokens are compared.

    Raises:
        StageError: The model is quantised already, or can't be written so.
    """
    if "quantization_config" in read_json(model_dir / CONFIG):
        raise StageError(f"--to {kind}: the model is quantised already", fix="export what it was made of")
    asked = {
        "model_dir": str(model_dir),
        "out": str(out),
        "type": kind,
        "trust_remote_code": trust_remote_code,
        "leave_out": [*leave_out],
        "held_out": [*held_out],
    }
    module = "sft.adapters.export.compressed_writer"
    return run_module(module, asked, folder=work / "writer", what=f"writing {kind}")
