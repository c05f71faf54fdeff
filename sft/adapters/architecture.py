"""Whether a checkpoint's tensors are those of its architecture: ``python -m sft.adapters.architecture``, a child.

transformers initialises what it misses at random and drops what it doesn't know, with a warning in a log. Here its own
loader says so before anything is trained. It is given tensors on the meta device, made from the safetensors headers, so
that its renaming and conversion of old checkpoints apply and no weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_files, checkpoint_values
from sft.adapters.checkpoint_files import listed
from sft.adapters.os import child
from sft.errors import StageError
from sft.redaction import shortened

_WRAPPERS = {
    "_orig_mod.": "of torch.compile; save model._orig_mod",
    "module.": "of DistributedDataParallel; save model.module",
    "base_model.model.": "of peft; save model.merge_and_unload()",
}
"""What a name begins with where a wrapped model was saved, and the mend."""
_COMPUTED = re.compile(r"(^|[._])(inv_freq|position_ids|masked_bias|attention\.bias|attn\.bias)$")
"""Buffers that old checkpoints hold, and that are computed."""
_FURTHER_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""What a config says of layers for multi-token prediction."""
_LAYER = re.compile(r"\blayers\.(\d+)\.")


def _check(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: compare, and return how many rows the embedding has, which tokens have none, and what is not read.

    Request: ``folder``, ``trust_remote_code``.
    """
    folder, trust = Path(request["folder"]), request["trust_remote_code"]
    tensors = checkpoint_files.read_tensors(folder)
    model, report = load_on_meta(folder, tensors, trust_remote_code=trust)
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if problems := list(differences(report, tensors, layers)):
        raise StageError("\n".join([f"{folder}: its weights are not those that config.json describes", *problems]))
    if not type(model).__name__.endswith(("ForCausalLM", "ForConditionalGeneration")):
        fix = "take a decoder-only model such as Qwen, Llama, Mistral or Gemma"
        raise StageError(f"{folder}: the training library does not take a {type(model).__name__}", fix=fix)
    read_as = tensors_read_as(model, tensors)
    check_tied(folder, model, read_as)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    num_rows = model.get_input_embeddings().num_embeddings
    without_row = sorted(token for token, number in tokenizer.get_vocab().items() if number >= num_rows)
    return {
        "num_rows": num_rows,
        "num_tokens": len(tokenizer),
        "without_row": without_row,
        "unread": unread(model, read_as),
    }


def load_on_meta(
    folder: Path, tensors: Mapping[str, checkpoint_files.Tensor], *, trust_remote_code: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the model without weights, and transformers' report of what it missed.

    Raises:
        StageError: transformers has no such architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            try:
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            except ValueError:
                model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, TypeError, ImportError) as error:
        what = shortened(" ".join(str(error).split()), 400)
        raise StageError(f"{folder}: transformers can't make this architecture: {what}") from error
    state = {name: _on_meta(tensor) for name, tensor in tensors.items()}
    loaded, report = type(model).from_pretrained(
        None,
        config=config,
        state_dict=state,
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return loaded, report


def tensors_read_as(model: Any, tensors: Iterable[str]) -> dict[str, str]:
    """Return the name that each stored tensor has in the model, which is in none of its own where it is not read.

    Args:
        model: As transformers loaded it.
        tensors: Names in the checkpoint.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = getattr(model, "_weight_conversions", None) or []
    renamings = [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
    converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
    own, prefix = model.state_dict(), model.base_model_prefix

    def read_as(name: str) -> str:
        renamed: str = rename_source_key(name, renamings, converters, prefix, own)[0]
        if renamed not in own and name in own:  # as transformers takes it back
            renamed = rename_source_key(name, [], [], prefix, own)[0]
        return renamed

    return {name: read_as(name) for name in tensors}


def unread(model: Any, read_as: Mapping[str, str]) -> str:
    """Return a line on the stored weights that the model has no place for; empty = each has one.

    transformers reports none of those that a class ignores by a pattern, such as heads for multi-token prediction.

    Args:
        model: As transformers loaded it.
        read_as: As `tensors_read_as` returns it.
    """
    own = model.state_dict()
    names = sorted(name for name, read in read_as.items() if read not in own and not _COMPUTED.search(name))
    if not names:
        return ""
    config = model.config.get_text_config()
    claims = [f"{key}={value}" for key in _FURTHER_LAYERS if (value := getattr(config, key, None))]
    still = f"; config.json goes on to say {' and '.join(claims)}" if claims else ""
    what = f"{len(names)} stored weights are not read by {type(model).__name__}, nor saved with a model of it"
    return f"{what}: {listed(names)}{still}"


def check_tied(folder: Path, model: Any, read_as: Mapping[str, str]) -> None:
    """Refuse weights that are tied by the config, and stored apart with other values.

    On the meta device transformers skips that check; with weights it lets both be, until something ties them again.

    Args:
        folder: Of the checkpoint.
        model: As transformers loaded it.
        read_as: As `tensors_read_as` returns it.

    Raises:
        StageError: They differ.
    """
    stored = {read: name for name, read in read_as.items()}
    for tied, source in model.all_tied_weights_keys.items():
        pair = (stored.get(tied), stored.get(source))
        if pair[0] and pair[1] and not checkpoint_values.are_equal(folder, pair[0], pair[1]):
            rule = f"config.json ties {pair[0]} to {pair[1]} (tie_word_embeddings), but both are stored and differ"
            raise StageError(f"{folder}: {rule}", fix="set tie_word_embeddings to false in a copy's config.json")


def _on_meta(tensor: checkpoint_files.Tensor) -> Any:
    import torch

    dtype = getattr(torch, checkpoint_files.FLOATS.get(tensor.dtype, "float32"))
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def differences(report: Mapping[str, Any], tensors: Iterable[str], num_layers: int | None) -> Iterator[str]:
    """Say what differs and how to mend it, a line each.

    Args:
        report: transformers' ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``, ``error_msgs``.
        tensors: Names in the checkpoint.
        num_layers: What the config says.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    for prefix, mend in _WRAPPERS.items():
        if wrapped := sorted(name for name in tensors if name.startswith(prefix)):
            yield f"{len(wrapped)} names begin with {prefix}, {mend}: {listed(wrapped)}"
            return
    present = _layers_in(tensors)
    if num_layers is not None and present != set(range(num_layers)) and _layers_in([*missing, *unexpected]):
        yield f"config.json says num_hidden_layers={num_layers}, the weights have {_layers(present)}: set it to theirs"
    if missing:
        yield f"{len(missing)} missing, which would be random: {listed(missing)}{_head(missing)}"
    if unexpected:
        yield f"{len(unexpected)} unexpected, which would be dropped: {listed(unexpected)}"
    for name, stored, expected in sorted(report["mismatched_keys"]):
        yield f"{name} has shape {list(stored)}, config.json means {list(expected)}"
    for message in report.get("error_msgs") or ():
        yield shortened(" ".join(str(message).split()), 400)


def _layers_in(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := _LAYER.search(name))}


def _layers(present: set[int]) -> str:
    whole = present == set(range(len(present)))
    return f"{len(present)}" if whole else f"only layers {listed([str(number) for number in sorted(present)], 8)}"


def _head(missing: list[str]) -> str:
    headless = missing == ["lm_head.weight"]
    return "; set tie_word_embeddings to true if the head is the embedding" if headless else ""


if __name__ == "__main__":
    child.main(_check)
