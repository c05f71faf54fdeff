"""How a trained model is saved: in the precision of the base model or another one, each weight once.

In the place of accelerate's `save_model` (accelerator.py:3480@1.15), which writes the fp32 master weights, and those
that are tied once for each name (FSDP's full state has copies, not views).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_files
from sft.errors import StageError
from sft.files import write_json

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_SHARD_BYTES = 5_000_000_000


def save_weights(model: Any, state: dict[str, Any], folder: Path, *, base: Path, save_dtype: str) -> None:
    """Write weights and ``config.json``.

    Args:
        model: The `PreTrainedModel` that the weights belong to; its own are not read.
        state: Weights by the model's names. Emptied, so that memory holds each in one precision.
        folder: Of the saved model.
        base: Folder of the base model.
        save_dtype: ``fp32``, ``bf16``, ``fp16``; ``auto`` = each weight in the type that it has in the base model.

    Raises:
        StageError: Tied weights differ, or a weight is too large for the type.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    _drop_tied(model, state)
    if save_dtype == "auto":
        default, stored = checkpoint_files.stored_dtype(base), checkpoint_files.read_tensors(base)
    else:
        default, stored = _DTYPES[save_dtype], {}
    # Through the names and shapes of the file and back: only there the base model's types are known.
    weights = dict(revert_weight_conversion(model, state))
    state.clear()
    for name in list(weights):
        if weights[name].is_floating_point():
            dtype = checkpoint_files.FLOATS.get(stored[name].dtype, default) if name in stored else default
            weights[name] = _cast(name, weights[name], getattr(torch, dtype))
    folder.mkdir(parents=True, exist_ok=True)
    _write(weights, folder)
    config = copy.deepcopy(model.config)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        if part is not None:
            part.dtype = getattr(torch, default)
    config.to_json_file(folder / checkpoint_files.CONFIG)


def _drop_tied(model: Any, state: dict[str, Any]) -> None:
    """Leave out of `state` what is another weight under a second name."""
    import torch

    for name, source in model.all_tied_weights_keys.items():
        if name in state and source in state:
            if not torch.equal(state[name], state[source]):
                raise StageError(
                    f"{name} and {source} are tied by tie_word_embeddings, but were trained apart",
                    fix="set tie_word_embeddings to false in a copy of the base model's config.json",
                )
            del state[name]


def _cast(name: str, weight: Any, dtype: Any) -> Any:
    import torch

    cast = weight.to(dtype).contiguous()
    if dtype is torch.float16 and not cast.isfinite().all():
        raise StageError(f"{name} holds values beyond the range of fp16", fix="training.save_dtype=bf16")
    return cast


def _write(weights: Mapping[str, Any], folder: Path) -> None:
    """Write one file, or shards of up to `_SHARD_BYTES` and their index, named as transformers names them."""
    from safetensors.torch import save_file

    shards = _shards({name: weight.numel() * weight.element_size() for name, weight in weights.items()})
    pattern = "model-{:05}-of-{:05}.safetensors" if len(shards) > 1 else checkpoint_files.WEIGHTS
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = pattern.format(number, len(shards))
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(weight.numel() * weight.element_size() for weight in weights.values())
        write_json(folder / checkpoint_files.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(sizes: Mapping[str, int]) -> list[list[str]]:
    """Divide tensors, in order, into shards of at most `_SHARD_BYTES`; a larger tensor has one to itself."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, num_bytes in sizes.items():
        if shards[-1] and size + num_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    return shards
