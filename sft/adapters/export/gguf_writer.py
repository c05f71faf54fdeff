"""Writes a model's folder as one GGUF file, a tensor at a time. A child process.

Matrices are written in the type that is asked for, norms and biases in fp32, as llama.cpp's own converter does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_values
from sft.adapters.checkpoint_files import INDEX, WEIGHTS, read_json, read_tensors
from sft.adapters.export import gguf_layout
from sft.adapters.export.gguf_vocabulary import Vocabulary, vocabulary_of, without_generation_marks
from sft.adapters.os import child
from sft.chat.special_tokens import stops
from sft.errors import StageError

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""Our names -> `gguf.LlamaFileType`."""
_OF_DTYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_ASK_BOS = "a"


def _write(request: Mapping[str, Any]) -> Mapping[str, Any]:
    import gguf
    from transformers import AutoConfig, AutoTokenizer

    folder, target = Path(request["model_dir"]), Path(request["file"])
    config = AutoConfig.from_pretrained(folder).to_dict()
    architecture = gguf_layout.architecture_of(config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = _OF_DTYPE[request["saved_dtype"]] if request["type"] == "auto" else request["type"]
    vocabulary = vocabulary_of(json.loads(tokenizer.backend_tokenizer.to_str()), config["vocab_size"])
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_name(request["name"])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in gguf_layout.hyperparameters(architecture, config).items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    notes = [*vocabulary.notes, *_add_tokenizer(writer, tokenizer, vocabulary, folder, config)]
    fallen_back = _write_tensors(writer, folder, architecture, config, kind)
    if fallen_back:
        listed = ", ".join(fallen_back[:3]) + (f" and {len(fallen_back) - 3} more" if len(fallen_back) > 3 else "")
        notes.append(f"kept in f16, as their rows are not divisible into blocks of {kind}: {listed}")
    return {"type": kind, "architecture": architecture, "pre": vocabulary.pre, "notes": notes}


def _add_tokenizer(
    writer: Any, tokenizer: Any, vocabulary: Vocabulary, folder: Path, config: Mapping[str, Any]
) -> list[str]:
    """Write vocabulary, special tokens and template; return what of them is not carried."""
    notes = []
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    ends = sorted(
        tokenizer.convert_tokens_to_ids(list(stops(tokenizer, folder))), key=lambda i: i != tokenizer.eos_token_id
    )
    if not ends:
        raise StageError("GGUF: the model has no token at which it stops", fix="set the tokenizer's eos_token")
    writer.add_eos_token_id(ends[0])
    if len(ends) > 1:
        writer.add_eot_token_id(ends[1])
    if len(ends) > 2:
        rest = ", ".join(map(str, tokenizer.convert_ids_to_tokens(ends[2:])))
        notes.append(f"GGUF names two tokens at which a model stops; llama.cpp is not told of {rest}")
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else config.get("bos_token_id")
    begun = tokenizer(_ASK_BOS).input_ids[0]
    # Without an id llama.cpp takes token 11 for it; the tokenizer says whether it comes before a text.
    writer.add_bos_token_id(ends[0] if bos is None else bos)
    writer.add_add_bos_token(bos is not None and begun == bos)
    writer.add_add_eos_token(False)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        others = ", ".join(name for name in template if name != "default")
        notes.append(f"of the model's chat templates only the default is written, without {others}")
        template = template["default"]
    if template is None:
        raise StageError("GGUF: the model has no chat template", fix="model.chat_template=FILE")
    writer.add_chat_template(without_generation_marks(template))
    return notes


def _write_tensors(writer: Any, folder: Path, architecture: str, config: Mapping[str, Any], kind: str) -> list[str]:
    """Write every tensor, and return the names of those that had to be wider than was asked."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    asked = gguf.GGMLQuantizationType[kind.upper()]
    shapes = {name: tensor.shape for name, tensor in read_tensors(folder).items()}
    names = {gguf_layout.tensor_name(name): name for name in shapes}  # of the checkpoint, by the file's
    head, embedding = names.get("output.weight"), names["token_embd.weight"]
    if head and config.get("tie_word_embeddings") and checkpoint_values.are_equal(folder, head, embedding):
        del names["output.weight"]
    types, fallen_back = {}, []
    for target, name in names.items():
        shape = shapes[name]
        types[target] = asked if len(shape) > 1 else gguf.GGMLQuantizationType.F32
        block, num_bytes = gguf.GGML_QUANT_SIZES[types[target]]
        if shape[-1] % block:
            types[target] = gguf.GGMLQuantizationType.F16
            fallen_back.append(target)
            block, num_bytes = gguf.GGML_QUANT_SIZES[types[target]]
        size = int(np.prod(shape)) // block * num_bytes
        writer.add_tensor_info(target, shape, np.dtype(np.float32), size, raw_dtype=types[target])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    shards = {} if (folder / WEIGHTS).is_file() else read_json(folder / INDEX)["weight_map"]
    for target, name in names.items():
        with safe_open(folder / shards.get(name, WEIGHTS), "pt") as weights:
            values = weights.get_tensor(name).float().numpy()
        if heads := gguf_layout.num_permuted_heads(architecture, name, config):
            values = _permuted(values, heads)
        stored = gguf.quants.quantize(values, types[target])
        if types[target] == gguf.GGMLQuantizationType.F16 and not np.isfinite(stored).all():
            raise StageError(f"{name} holds values beyond the range of f16", fix="--type bf16")
        writer.write_tensor_data(stored)
    writer.close()
    return fallen_back


def _permuted(values: Any, num_heads: int) -> Any:
    """Return rows in the order of GGUF: of each head, i and i + half become neighbours."""
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


if __name__ == "__main__":
    child.main(_write)
