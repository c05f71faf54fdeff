"""Owns LoRA under FSDP, which fails upstream in four places (trap 12), and saving the adapter, which upstream discards.

1. model.py:363@0.16.2 imports a name that trl no longer has.
2. model.py:405 compares an enum with its value, and so never reaches the path that it has for FSDP.
3. utils.py:399 reads ``args.lora_config``, which nothing sets.
4. Under FSDP1, gradient checkpointing without reentry sees fp32 in the forward pass and bf16 when it recomputes:
   `CheckpointError` (`recomputation` takes the one with reentry).

The replacements can be removed when upstream trains and saves LoRA under FSDP.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_writer
from sft.adapters.instructlab.layout import ADAPTER, ADAPTERS
from sft.adapters.instructlab.rank import adapted, continued
from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.patched import patched
from sft.errors import StageError
from sft.files import write_json

_PREFIX = "base_model.model."


@contextmanager
def lora_training(options: WorkerOptions, logs: Path | None) -> Iterator[None]:
    """Make the library train adapters and save them, until the block ends.

    Args:
        options: With `training.lora`, and what becomes of a model then.
        logs: Folder for the note on what is adapted; None = none is written.
    """
    from instructlab.training import model, utils

    def prepare(self: Any) -> Any:
        """Replace `Model.prepare_peft_model`."""
        made = adapted.with_adapters(
            self.model,
            options.lora,
            adapted_model=options.adapted_model,
            adapted_revision=options.adapted_revision,
            fsdp_version=options.fsdp_version,
            compiles=options.compile_layers,
        )
        if options.continued_adapter:
            continued.load(made, Path(options.continued_adapter))
        if logs and os.environ.get("RANK", "0") == "0":
            write_json(logs / ADAPTERS, adapted.facts(made))
        return made

    replacements: list[tuple[object, str, object]] = [
        (model.Model, "prepare_peft_model", prepare),
        (utils, "save_fsdp_lora_model", functools.partial(_save, save_dtype=options.save_dtype)),
    ]
    with patched(*replacements):
        yield


def _save(args: Any, model: Any, tokenizer: Any, accelerator: Any, output_dir: Path, *, save_dtype: str) -> None:
    """Save the adapter in fp32, and the base model with the adapter merged into it.

    The sum is made in fp32 and rounded once. Memory: one fp32 copy of the model on the host of the main process.
    """
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM

    state = accelerator.get_state_dict(model.model)
    if accelerator.is_main_process:
        base = AutoModelForCausalLM.from_pretrained(**args.base_model_args, device_map="cpu").float()
        num_rows = model.module.get_input_embeddings().num_embeddings
        if base.get_input_embeddings().num_embeddings != num_rows:  # a resize to the same size ties weights again
            base.resize_token_embeddings(num_rows)
        whole = on_base(base, model.module, state)
        whole.save_pretrained(output_dir / ADAPTER, save_embedding_layers=False)  # "auto" asks the hub
        merged, base_folder = whole.merge_and_unload(), Path(args.model_name_or_path)
        state = merged.state_dict()
        checkpoint_writer.save_weights(merged, state, output_dir, base=base_folder, save_dtype=save_dtype)
        tokenizer.save_pretrained(output_dir)
    dist.barrier()


def on_base(base: Any, trained: Any, state: Mapping[str, Any]) -> Any:
    """Return the adapter of `trained` as one of `base`, in PEFT's model.

    An adapter that took what it began with out of the base weights, W' = W - s B0 A0, becomes one of W: of twice the
    rank, [B, -B0] and [A; A0], as PEFT converts it, here for every scale. With DoRA the direction is the same sum.

    Args:
        base: The model that was adapted, with its own weights in fp32.
        trained: PEFT's model, of which names and settings are read.
        state: Its whole state by name, from all ranks.

    Raises:
        StageError: The state lacks a weight that was trained.
    """
    import copy

    import torch
    from peft import PeftModel

    config, began = copy.deepcopy(trained.peft_config[adapted.NAME]), adapted.began_with(trained)
    config.init_lora_weights = True  # what it began with is in it; PEFT would take it out of the base again
    if began:
        config.r = 2 * config.r
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    whole = PeftModel(base, config)
    scales = {name: layer.scaling[adapted.NAME] for name, layer in adapted.adapter_layers(whole).items()}
    layers = adapted.adapter_layers(trained)
    found = {}
    for name, parameter in whole.named_parameters():
        if ".lora_" not in name and ".modules_to_save." not in name:
            continue
        if name not in state:
            raise StageError(f"the ranks' state has no {name}, which was trained")
        value = state[name].float()
        of, _, kind = name.removeprefix(_PREFIX).partition(".lora_")
        if began and kind.startswith(("A.", "B.")):
            first = began[of][kind.startswith("B.")]
            if kind.startswith("A."):
                value = torch.cat([value, first])
            else:
                value = torch.cat([value, -first], dim=1) * (layers[of].scaling[adapted.NAME] / scales[of])
        if value.shape != parameter.shape:
            raise StageError(f"{name} has the shape {tuple(value.shape)}, and not {tuple(parameter.shape)}")
        found[name] = value
    whole.load_state_dict(found, strict=False)
    return whole
