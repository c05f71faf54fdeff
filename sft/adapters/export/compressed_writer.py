"""Writes a model's folder with 8-bit weights, in compressed-tensors' format, a shard at a time. A child process.

Each row of a linear layer's weight has its own scale, the largest value over half the range; activations are quantised
token by token when the model runs. That is compressed-tensors' ``FP8_DYNAMIC`` and ``INT8``, which need no calibration
(compressed_tensors/quantization/utils/helpers.py:calculate_qparams@0.20.0). The head and all else stay as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import CONFIG, INDEX, WEIGHTS, files_of, listed, read_json, read_tensors
from sft.adapters.export.prompts import compare_prompts
from sft.adapters.os import child
from sft.chat.special_tokens import stops
from sft.chat.template import Renderer
from sft.errors import StageError

_FORMATS = {"fp8": ("float", "float-quantized"), "int8": ("int", "int-quantized")}
"""Ours -> compressed-tensors' type, and its format of a checkpoint."""
_HEAD = "lm_head"


def _write(request: Mapping[str, Any]) -> Mapping[str, Any]:
    source, out, kind = Path(request["model_dir"]), Path(request["out"]), request["type"]
    trust = {"trust_remote_code": request["trust_remote_code"]}
    layers = linear_layers(source, trust)
    shards = _shards(source)
    places: dict[str, str] = {}
    largest, num_bytes = 0.0, 0
    for shard in shards:
        written, difference, size = _write_shard(source / shard, out / shard, layers, kind)
        places |= dict.fromkeys(written, shard)
        largest, num_bytes = max(largest, difference), num_bytes + size
    check_layers(layers, places)
    if (source / INDEX).is_file():
        index = {"metadata": {"total_size": num_bytes}, "weight_map": places}
        (out / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    copy_rest(source, out, quantization_config(kind), request["leave_out"])
    prompts = compare_folders(source, out, trust, request["held_out"])
    return {
        "num_layers": len(layers),
        "share": share_of(source, layers),
        "largest_weight_difference": largest,
        "prompts": prompts,
        "num_bytes": num_bytes,
    }


def share_of(source: Path, layers: Collection[str]) -> float:
    """Return which part of a model's weights are in these layers: little of a mixture's, whose experts are fused."""
    sizes = {name: tensor.size for name, tensor in read_tensors(source).items()}
    return sum(size for name, size in sizes.items() if name in layers) / sum(sizes.values())


def check_layers(layers: Collection[str], written: Collection[str]) -> None:
    """Refuse a model of which no layer, or not each, was rounded: its config would say otherwise.

    Args:
        layers: Names of the weights that should be.
        written: Names of all that was written.

    Raises:
        StageError: There are none, or the checkpoint calls them otherwise.
    """
    fix = "another format (--to), or the run's model as it is"
    if not layers:
        raise StageError("the model has no linear layers but its head, so that nothing would be smaller", fix=fix)
    if absent := sorted(name for name in layers if f"{name}_scale" not in written):
        message = f"the checkpoint has no {listed(absent)}: it calls layers otherwise than transformers does"
        raise StageError(message, fix=fix)


def quantization_config(kind: str) -> dict[str, Any]:
    """Return what ``config.json`` says of the weights."""
    number, layout = _FORMATS[kind]
    shared = {"num_bits": 8, "type": number, "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**shared, "strategy": "channel", "dynamic": False},
        "input_activations": {**shared, "strategy": "token", "dynamic": True},
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": [_HEAD],
        "config_groups": {"group_0": group},
    }


def copy_rest(source: Path, out: Path, told: Mapping[str, Any], leave_out: Sequence[str]) -> None:
    """Copy all of a model but its weights, and say in its config how those are written.

    Args:
        source: The original's folder.
        out: Folder that has the weights.
        told: The config's ``quantization_config``.
        leave_out: Names of files that tell of the original.
    """
    config = {**read_json(source / CONFIG), "quantization_config": told}
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in files_of(source):
        name = file.relative_to(source)
        if name.as_posix() not in {CONFIG, INDEX, *_shards(source), *leave_out}:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, out / name)


def compare_folders(
    source: Path, out: Path, trust: Mapping[str, bool], held_out: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return how many prompts of two folders' tokenizers were compared; see `compare_prompts`."""
    from transformers import AutoTokenizer

    both = [AutoTokenizer.from_pretrained(folder, **trust) for folder in (source, out)]
    renderers = [Renderer(own, stops(own, folder)) for own, folder in zip(both, (source, out), strict=True)]
    return compare_prompts(renderers[0], renderers[1], held_out)


def _shards(source: Path) -> list[str]:
    return sorted({*read_json(source / INDEX)["weight_map"].values()}) if (source / INDEX).is_file() else [WEIGHTS]


def linear_layers(source: Path, trust: Mapping[str, bool]) -> set[str]:
    """Return the names of the weights that are quantised."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, **trust), **trust)
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {f"{name}.weight" for name in names if name != _HEAD}


def _write_shard(source: Path, target: Path, layers: set[str], kind: str) -> tuple[list[str], float, int]:
    """Write a file of weights.

    Returns:
        The tensors in it, the largest difference of one (root of the squares, of those of its own), and their bytes.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors, largest = {}, 0.0
    for name, values in load_file(source).items():
        if name not in layers:
            tensors[name] = values
            continue
        quantised, scale = quantise(values, kind)
        if not torch.isfinite(scale).all():
            raise StageError(f"{name} holds a value that is not a number")
        tensors[name], tensors[f"{name}_scale"] = quantised, scale
        gap = torch.linalg.vector_norm(quantised.float() * scale.float() - values.float())
        largest = max(largest, float(gap / torch.linalg.vector_norm(values.float()).clamp(min=1e-12)))
    save_file(tensors, target, metadata={"format": "pt"})
    return [*tensors], largest, sum(one.nbytes for one in tensors.values())


def quantise(values: Any, kind: str) -> tuple[Any, Any]:
    """Return a matrix in 8 bits, and the scale of each of its rows.

    Args:
        values: rows x columns.
        kind: ``fp8`` or ``int8``.

    Returns:
        8-bit numbers, rows x columns, and rows x 1 scales in the type of `values`.
    """
    import torch

    numbers = torch.finfo(torch.float8_e4m3fn) if kind == "fp8" else torch.iinfo(torch.int8)
    half = (numbers.max - numbers.min) / 2
    largest = values.abs().amax(dim=1, keepdim=True)
    scale = largest / half
    scale = torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)
    scaled = (values / scale).clamp(numbers.min, numbers.max)
    return (scaled.to(torch.float8_e4m3fn) if kind == "fp8" else scaled.round().to(torch.int8)), scale


if __name__ == "__main__":
    child.main(_write)
