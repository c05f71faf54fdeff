"""What a folder with a base model must hold, and what its ``config.json`` may say. Reads files; imports nothing heavy.

Whether the weights fit the architecture is for `sft.adapters.architecture` to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.checkpoint_files import (
    CONFIG,
    INDEX,
    WEIGHTS,
    config_dtype,
    files_of,
    listed,
    read_json,
    stored_dtype,
)
from sft.errors import StageError
from sft.files import read_document

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
_JSON_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "generation_config.json",
)
"""What transformers reads beside the config; of a torn one it says the line, but not the file."""
_TOKENIZER, _TOKENIZER_PARTS = "tokenizer.json", ("model", "added_tokens")
_TRAINABLE = ("ForCausalLM", "ForConditionalGeneration")
"""What instructlab-training takes (model.py:388@0.16.2), by the end of the class's name."""
_ADAPTER = "adapter_config.json"
_READ_WHOLE = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}
_LARGEST_BYTES = 256 << 20
"""Of a file that libraries read as a whole; the largest tokenizers known have 35 MB."""
_TYPES: dict[str, tuple[type, str]] = {
    "model_type": (str, "a text"),
    "architectures": (list, "a list"),
    "auto_map": (dict, "an object"),
    "text_config": (dict, "an object"),
    "quantization_config": (dict, "an object"),
}
_SHOWN_CHARACTERS = 100


def check_folder(folder: Path, what: str, *, is_to_be_trained: bool = True) -> None:
    """Raise unless a folder holds a base model that can be fine-tuned on chat data.

    Args:
        folder: In Hugging Face layout.
        what: The setting that names it, for messages.
        is_to_be_trained: Otherwise it is only used, and its weights may be quantized.

    Raises:
        StageError: Config, tokenizer or safetensors weights are missing, `check_config` refuses, or a file is not JSON.
    """
    if (folder / _ADAPTER).is_file():  # transformers would load the base model that it names, from wherever that is
        fix = "name its base model there, and this folder as model.adapter; or `sft merge` it first"
        raise StageError(f"{what}: holds an adapter ({_ADAPTER}), which is not a whole model", fix=fix)
    if not (folder / CONFIG).is_file():
        raise StageError(f"{what}: no {CONFIG} in {folder}", fix="give a folder in Hugging Face layout")
    check_config(read_json(folder / CONFIG), what, is_to_be_trained=is_to_be_trained)
    for file in files_of(folder):
        if file.suffix in _READ_WHOLE and file.stat().st_size > _LARGEST_BYTES:
            raise StageError(f"{what}: {file.name} has more than {_LARGEST_BYTES >> 20} MiB: it is no part of a model")
    for name in _JSON_FILES:
        if (folder / name).is_file():
            _check_json(folder / name)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        fix = "copy the base model's tokenizer files (tokenizer.json, tokenizer_config.json) into the folder"
        raise StageError(f"{what}: no tokenizer in {folder} (none of {', '.join(_TOKENIZER_FILES)})", fix=fix)
    if not has_weights(folder):
        # transformers would take pytorch_model.bin, which can run code; it looks for no other *.safetensors.
        raise StageError(
            f"{what}: no {WEIGHTS} nor {INDEX} in {folder}; pickled weights are not loaded, they can run code",
            fix="convert them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
        )


def _check_json(file: Path) -> None:
    """Raise unless a file is one JSON object; what is in it is not made: a tokenizer's would take 100s of megabytes."""
    fix = "fetch the model again, or save its tokenizer again with save_pretrained"
    try:
        content = msgspec.json.decode(read_document(file, _LARGEST_BYTES).decode(), type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise StageError(f"{file}: must be a JSON object: {error}", fix=fix) from error
    except (ValueError, msgspec.DecodeError) as error:
        raise StageError(f"{file}: not valid JSON: {error}", fix=fix) from error
    if file.name == _TOKENIZER and (lacking := [name for name in _TOKENIZER_PARTS if name not in content]):
        raise StageError(f"{file}: has no {listed(lacking)}, so it is no tokenizer", fix=fix)


def check_names(names: Collection[str], what: str) -> None:
    """Raise unless files of these names can be a base model: `check_folder` before they are downloaded.

    Args:
        names: Of the files that a repository has.
        what: The setting that names it, for messages.

    Raises:
        StageError: Config, tokenizer or safetensors weights are missing.
    """
    if CONFIG not in names:
        raise StageError(f"{what}: it has no {CONFIG}", fix="take a model in Hugging Face layout")
    if not {*_TOKENIZER_FILES} & {*names}:
        raise StageError(
            f"{what}: it has no tokenizer (none of {', '.join(_TOKENIZER_FILES)})", fix="take another model"
        )
    if not {WEIGHTS, INDEX} & {*names}:
        rule = f"it has no {WEIGHTS} nor {INDEX}; pickled weights are not loaded, they can run code"
        raise StageError(f"{what}: {rule}", fix="take a model with safetensors weights")


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights that are loaded."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def check_config(config: Mapping[str, Any], what: str, *, is_to_be_trained: bool = True) -> None:
    """Raise if a model of this ``config.json`` can't be trained, or if it loads what the record would not hold.

    Args:
        config: Parsed.
        what: The setting that names the model, for messages.
        is_to_be_trained: As in `check_folder`.

    Raises:
        StageError: Every reason, in one message.
    """
    if reasons := [*_wrong_types(config)] or [*_refusals(config, is_to_be_trained=is_to_be_trained)]:
        fix = "take a decoder-only model with its weights in bf16, fp16 or fp32, such as Qwen, Llama, Mistral or Gemma"
        raise StageError(f"{what}: {CONFIG}: " + "; ".join(reasons), fix=fix)


def _wrong_types(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what transformers could not read either."""
    for key, (kind, what) in _TYPES.items():
        if config.get(key) is not None and not isinstance(config[key], kind):
            yield f"{key}={str(config[key])[:_SHOWN_CHARACTERS]} must be {what}"


def _refusals(config: Mapping[str, Any], *, is_to_be_trained: bool) -> Iterator[str]:
    if not isinstance(config.get("model_type"), str):
        yield "no model_type, which says the architecture"
    if config.get("is_encoder_decoder"):
        yield f"{config.get('model_type')} is an encoder-decoder model, and only decoders are trained"
    classes = config.get("architectures") or []
    if classes and not any(str(name).endswith(_TRAINABLE) for name in classes):
        names = listed([str(name) for name in classes])
        yield f"architectures={names}: the training library takes only …{' and …'.join(_TRAINABLE)}"
    quantization = config.get("quantization_config")
    if is_to_be_trained and isinstance(quantization, dict) and not _is_dequantized(config, quantization):
        yield f"quantized weights (quant_method={quantization.get('quant_method')}) can't be trained"
    if weights := config.get("transformers_weights"):
        yield f"transformers_weights={weights} names other weights than {WEIGHTS}; rename that file"
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        yield from _code_elsewhere(part)


def _code_elsewhere(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a config, or that of a part such as ``text_config``, would fetch code for."""
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key) or ""):
            yield f"{key}={config[key]} would fetch code from another repository; remove it"
    auto_map = config.get("auto_map")
    for name, code in auto_map.items() if isinstance(auto_map, dict) else ():
        references = code if isinstance(code, list) else [code]
        if any("--" in str(reference) or "/" in str(reference) for reference in references):
            yield f"auto_map.{name}={code} names code outside of the model's folder; copy it into the folder"


def _is_dequantized(config: Mapping[str, Any], quantization: Mapping[str, Any]) -> bool:
    """Return whether the training library turns these weights into bf16 (model.py:97, vlm_utils.py:162@0.16.2)."""
    method = quantization.get("quant_method")
    return (method, config.get("model_type")) == ("mxfp4", "gpt_oss") or (method == "fp8" and "text_config" in config)


def stops_note(folder: Path) -> str | None:
    """Return a line if tokens at which the model stops are named where the training library overwrites them."""
    named = read_json(folder / CONFIG).get("eos_token_id")
    file = folder / "generation_config.json"
    if not isinstance(named, list) or len(named) < 2 or (file.is_file() and read_json(file).get("eos_token_id")):
        return None
    what = f"{CONFIG} names {len(named)} tokens at which the model stops, and no generation_config.json does"
    return f"{what}: the tokenizer's eos_token alone counts; write eos_token_id there, too"


def dtype_note(folder: Path) -> str | None:
    """Return a line if the weights are not of the type that ``config.json`` says, in which they are loaded."""
    said, stored = config_dtype(read_json(folder / CONFIG)), stored_dtype(folder)
    if said in {None, stored}:
        return None
    return f"weights are stored in {stored}, but {CONFIG} says {said}: they are rounded to {said} when loaded"
