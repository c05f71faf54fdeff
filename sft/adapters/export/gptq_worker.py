"""Rounds a model's linear layers to 4 bits by llm-compressor's GPTQ: ``PYTHON -I gptq_worker.py FOLDER``.

PYTHON is of an environment that has llm-compressor, which wants another transformers than ours; so nothing of sft is
imported here. FOLDER has ``request.json`` and gets ``result.json`` or ``error.json``, as a child module's
(`sft.adapters.os.child`); the parent is `sft.adapters.export.int4`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

GROUPS = (128, 64, 32)
"""Values that may share a scale; kernels of vLLM take these."""
HEAD = "lm_head"


class RefusedError(Exception):
    """The model can't be written so; the message says why."""


def group_size(widths: Iterable[int]) -> int:
    """Return the largest of `GROUPS` that divides all widths: fewer scales, and the same for every layer.

    Args:
        widths: Inputs of each linear layer.

    Raises:
        RefusedError: None does.
    """
    widths = sorted({*widths})
    if not widths:
        raise RefusedError("the model has no linear layers")
    for group in GROUPS:
        if all(width % group == 0 for width in widths):
            return group
    odd = ", ".join(str(width) for width in widths if width % GROUPS[-1])
    raise RefusedError(f"4-bit weights share a scale in groups of {GROUPS[-1]} or more, which don't divide {odd}")


def scheme(group: int) -> dict[str, Any]:
    """Return what compressed-tensors calls the weights: W4A16, symmetric, a scale for each group of a row."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def quantise(request: Mapping[str, Any]) -> dict[str, Any]:
    """Quantise a model, and save it.

    Args:
        request: ``model_dir``, ``out``, ``samples`` (token ids of each), ``seed``, ``trust_remote_code``.

    Returns:
        ``group_size``, ``num_layers`` and ``versions``.
    """
    from importlib.metadata import version

    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(request["seed"])
    trust = {"trust_remote_code": request["trust_remote_code"]}
    model = AutoModelForCausalLM.from_pretrained(request["model_dir"], dtype="auto", **trust)
    linear = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    layers = {name: part.in_features for name, part in linear if name.rpartition(".")[2] != HEAD}
    group = group_size(layers.values())
    sys.stdout.write(f"{len(layers)} linear layers in groups of {group}\n")
    samples = request["samples"]
    oneshot(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(request["model_dir"], **trust),
        dataset=Dataset.from_dict({"input_ids": samples, "attention_mask": [[1] * len(ids) for ids in samples]}),
        recipe=GPTQModifier(config_groups=scheme(group), ignore=[HEAD]),
        num_calibration_samples=len(samples),
        max_seq_length=max(map(len, samples)),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(request["out"], save_compressed=True)
    packages = ("llmcompressor", "compressed-tensors", "torch", "transformers")
    return {
        "group_size": group,
        "num_layers": len(layers),
        "versions": {package: version(package) for package in packages},
    }


def main(folder: Path) -> int:
    """Answer the request in a folder, and return the exit status."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        result = quantise(request)
    except Exception as error:  # noqa: BLE001 - the parent process must read any error
        traceback.print_exc()
        facts = {
            "type": type(error).__name__,
            "message": str(error),
            "expected": "yes" if isinstance(error, RefusedError) else None,
        }
        (folder / "error.json").write_text(json.dumps(facts), encoding="utf-8")
        return 1
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
