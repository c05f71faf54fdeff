"""Owns what a training that continues an adapter begins with: its matrices, magnitudes, whole modules, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.adapters.adapter_files import WEIGHTS
from sft.errors import StageError


def load(adapted: Any, folder: Path) -> None:
    """Give a model's adapters the values of a saved one.

    Args:
        adapted: PEFT's model, with adapters in their places. What is trained of it becomes fp32, as the optimizer keeps
            it, so that no bit of the file is lost.
        folder: Of the saved adapter.

    Raises:
        StageError: The file has other tensors than the model has places, or PEFT does not take a value as it is.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _compare(saved, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    set_peft_model_state_dict(adapted, saved)
    for name, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items():
        if not torch.equal(value, saved[name].to(value)):
            raise StageError(f"model.adapter: peft did not take {name} as it is in the file")


def _compare(saved: dict[str, Any], places: dict[str, Any]) -> None:
    """Raise StageError unless both have the same names and shapes."""
    fix = "take its own base model; model.adapter_use=merged is for an adapter that has more"
    if more := sorted({*saved} - {*places}):
        raise StageError(f"model.adapter: has {more[0]}, for which the model has no place", fix=fix)
    if missing := sorted({*places} - {*saved}):
        raise StageError(f"model.adapter: has no {missing[0]}, which its own settings name", fix=fix)
    for name, place in places.items():
        if saved[name].shape != place.shape:
            shapes = f"{tuple(saved[name].shape)}, and not {tuple(place.shape)}"
            raise StageError(f"model.adapter: {name} has the shape {shapes}", fix=fix)
