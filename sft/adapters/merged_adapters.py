"""Adapters put into a base model's weights: ``python -m sft.adapters.merged_adapters``, a child that writes the model.

W + sum_i w_i s_i B_i A_i, with PEFT's scale s_i = alpha/r, or alpha/sqrt(r) with rsLoRA. The sum is made in fp32 and
rounded once, to the types that the base has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_writer
from sft.adapters.checkpoint_files import copy_as_in_base
from sft.adapters.os import child
from sft.errors import StageError


def _merge(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: write the merged model into ``target``; return how many weights each adapter has changed.

    Request: ``folder`` of the base, ``target``, ``adapters`` (each with ``folder`` and ``weight``),
    ``trust_remote_code``.
    """
    from transformers import AutoModelForCausalLM

    folder, target = Path(request["folder"]), Path(request["target"])
    trust = request["trust_remote_code"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trust).float()
    changed = []
    for adapter in request["adapters"]:
        model, number = merged(model, Path(adapter["folder"]), adapter["weight"])
        changed.append(number)
    checkpoint_writer.save_weights(model, model.state_dict(), target, base=folder, save_dtype="auto")
    copy_as_in_base(folder, target)
    return {"changed": changed}


def merged(model: Any, folder: Path, weight: float) -> tuple[Any, int]:
    """Return the model with an adapter in its weights, and how many of them that has changed.

    Args:
        model: A `PreTrainedModel` in fp32, which is changed.
        folder: The adapter's.
        weight: By which it is multiplied.

    Raises:
        StageError: The adapter is not of this model, or holds NaN or infinity.
    """
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora.layer import LoraLayer
    from safetensors import safe_open

    from sft.adapters.adapter_files import WEIGHTS

    config = LoraConfig.from_pretrained(folder)
    config.init_lora_weights = True  # PEFT would take what some begin with out of the base
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of weights that are missing
            adapted = PeftModel.from_pretrained(model, folder, config=config)
    except (RuntimeError, ValueError, KeyError, UserWarning) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise StageError(
            f"{folder}: is not an adapter of this model: {first}", fix="take its own base model"
        ) from error
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        names = list(file.keys())
        if broken := [name for name in names if not file.get_tensor(name).isfinite().all()]:
            fix = "take an earlier state of the training that made it"
            raise StageError(f"{folder}: {broken[0]} has values that are no numbers", fix=fix)
    num_saved = sum(".lora_" in name for name in names)
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    num_made = sum(".lora_" in name for name, _ in adapted.named_parameters())
    if num_saved != num_made:
        raise StageError(
            f"{folder}: has {num_saved} matrices, for {num_made} of this model", fix="take its own base model"
        )
    for layer in layers:
        layer.scaling = {name: scale * weight for name, scale in layer.scaling.items()}
    return adapted.merge_and_unload(), len(layers)


if __name__ == "__main__":
    child.main(_merge)
