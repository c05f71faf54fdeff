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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_writer
from sft.adapters.instructlab.layout import ADAPTER
from sft.adapters.patched import patched
from sft.errors import StageError


@contextmanager
def lora_training(*, adapted_model: str, save_dtype: str) -> Iterator[None]:
    """Make the library train adapters and save them, until the block ends.

    Args:
        adapted_model: Name of the base model in the adapter's configuration.
        save_dtype: Type of the merged model's weights, as `checkpoint_writer.save_weights` takes it.
    """
    from instructlab.training import model, utils

    def prepare(self: Any) -> Any:
        """Replace `Model.prepare_peft_model`."""
        from peft import get_peft_model

        config = self.lora_config
        available = sorted(self.projection_layer_names)
        wanted = sorted(config.target_modules or available)
        if missing := sorted(set(wanted) - {name.rpartition(".")[2] for name, _ in self.model.named_modules()}):
            raise StageError(
                f"training.lora.target_modules: the model has no {', '.join(missing)}",
                fix=f"choose from {', '.join(available)}, or null for all of them",
            )
        config.target_modules = wanted
        self.model.enable_input_require_grads()  # without it reentrant checkpointing drops the gradient
        adapted = get_peft_model(self.model, config)
        config.base_model_name_or_path = adapted_model
        return adapted

    replacements: list[tuple[object, str, object]] = [
        (model.Model, "prepare_peft_model", prepare),
        (utils, "save_fsdp_lora_model", functools.partial(_save, save_dtype=save_dtype)),
    ]
    with patched(*replacements):
        yield


def _save(args: Any, model: Any, tokenizer: Any, accelerator: Any, output_dir: Path, *, save_dtype: str) -> None:
    """Save the adapter in fp32, and the base model with the adapter merged into it.

    The sum is made in fp32 and rounded once. Memory: one fp32 copy of the model on the host of the main process.
    """
    import torch.distributed as dist
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    state = accelerator.get_state_dict(model.model)
    if accelerator.is_main_process:
        config = model.module.peft_config["default"]
        base = AutoModelForCausalLM.from_pretrained(**args.base_model_args, device_map="cpu").float()
        base.resize_token_embeddings(model.module.get_input_embeddings().num_embeddings)
        whole = PeftModel(base, config)
        whole.load_state_dict(state)
        whole.save_pretrained(output_dir / ADAPTER)
        merged, base_folder = whole.merge_and_unload(), Path(args.model_name_or_path)
        state = merged.state_dict()
        checkpoint_writer.save_weights(merged, state, output_dir, base=base_folder, save_dtype=save_dtype)
        tokenizer.save_pretrained(output_dir)
    dist.barrier()
