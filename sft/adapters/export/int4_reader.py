"""Reads 4-bit weights back that another environment wrote, and makes a model's folder of them. A child process.

Weights lie in compressed-tensors' format ``pack-quantized``: eight 4-bit numbers in an int32, and a scale for each
group of a row (compressed_tensors/compressors/pack_quantized/helpers.py@0.20.0). All else is the original's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_values
from sft.adapters.checkpoint_files import INDEX, WEIGHTS, read_json, read_tensors
from sft.adapters.export import compressed_writer
from sft.adapters.os import child
from sft.errors import StageError

_PACKED, _HEAD = "_packed", "lm_head.weight"
_BITS = 4


def _read(request: Mapping[str, Any]) -> Mapping[str, Any]:
    source, written, out = (Path(request[name]) for name in ("model_dir", "written", "out"))
    trust = {"trust_remote_code": request["trust_remote_code"]}
    layers = compressed_writer.linear_layers(source, trust)
    largest = _check(source, written, layers, request["group_size"], is_tied=_is_tied(source, trust))
    shards = [file for file in sorted(written.iterdir()) if file.suffix == ".safetensors" or file.name == INDEX]
    num_bytes = sum(file.stat().st_size for file in shards)
    for file in shards:
        file.rename(out / file.name)
    told = read_json(written / "config.json")["quantization_config"]
    compressed_writer.copy_rest(source, out, told, request["leave_out"])
    prompts = compressed_writer.compare_folders(source, out, trust, request["held_out"])
    return {
        "num_layers": len(layers),
        "share": compressed_writer.share_of(source, layers),
        "largest_weight_difference": largest,
        "num_bytes": num_bytes,
        "prompts": prompts,
    }


def _is_tied(source: Path, trust: Mapping[str, bool]) -> bool:
    """Return whether the head is the embedding, which is written once."""
    from transformers import AutoConfig

    if not AutoConfig.from_pretrained(source, **trust).get_text_config().tie_word_embeddings:
        return False
    stored = read_tensors(source)
    embedding = next((name for name in stored if name.endswith("embed_tokens.weight")), None)
    return _HEAD not in stored or embedding is None or checkpoint_values.are_equal(source, _HEAD, embedding)


def _check(source: Path, written: Path, layers: set[str], group: int, *, is_tied: bool) -> float:
    """Return the largest difference of a layer: root of the squares, of those of its own.

    Raises:
        StageError: A tensor is missing, is not packed or not the original's, a scale is not a number, or zeros would be
            as near to a layer as what was written.
    """
    import torch

    packed, largest = set(), 0.0
    names = {*_tensors(written)}
    for name, values in _values(source):
        if f"{name}{_PACKED}" in names:
            packed.add(name)
            scale = _tensor(written, f"{name}_scale")
            read = unpack(_tensor(written, f"{name}{_PACKED}"), scale, values.shape[1])
            if read.shape != values.shape or values.shape[1] // scale.shape[1] != group:
                raise StageError(f"{name} has another shape in what llm-compressor wrote")
            gap = torch.linalg.vector_norm(read - values.float())
            if not torch.isfinite(gap):
                raise StageError(f"{name} holds a value that is not a number")
            share = float(gap / torch.linalg.vector_norm(values.float()).clamp(min=1e-12))
            if share >= 1:
                message = f"{name} is not what was quantised: it differs by {share:.2g} of itself"
                raise StageError(message, fix="another format: --to int8")
            largest = max(largest, share)
        elif name in names:
            if not torch.equal(_tensor(written, name), values):
                raise StageError(f"{name} was changed by llm-compressor, which was not asked to")
        elif name != _HEAD or not is_tied:
            raise StageError(f"{name} is missing in what llm-compressor wrote", fix="another format: --to int8")
    if packed != layers:
        odd = ", ".join(sorted(packed ^ layers)[:3])
        raise StageError(f"llm-compressor packed other layers than the linear ones: {odd}", fix="--to int8")
    return largest


def unpack(packed: Any, scale: Any, width: int) -> Any:
    """Return the weights that packed ones stand for, in fp32.

    Args:
        packed: rows x width / 8, int32.
        scale: rows x width / group.
        width: Values of a row.
    """
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    numbers = unpack_from_int32(packed, _BITS, torch.Size((packed.shape[0], width))).float()
    return numbers * scale.float().repeat_interleave(width // scale.shape[1], dim=1)


def _tensors(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by its name."""
    from safetensors import safe_open

    if (folder / INDEX).is_file():
        places: dict[str, str] = read_json(folder / INDEX)["weight_map"]
        return places
    with safe_open(folder / WEIGHTS, "pt") as weights:
        return dict.fromkeys(weights.keys(), WEIGHTS)


def _tensor(folder: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(folder / _tensors(folder)[name], "pt") as weights:
        return weights.get_tensor(name)


def _values(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield each tensor of a folder with its name."""
    for name in sorted(_tensors(folder)):
        yield name, _tensor(folder, name)


if __name__ == "__main__":
    child.main(_read)
