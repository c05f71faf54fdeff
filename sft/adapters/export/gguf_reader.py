"""Reads a GGUF file back as a model's folder, to be scored, and compares it with what it was made of. A child process.

Weights come through transformers, whose reader knows nothing of our writer; the tokenizer is built from the file alone,
as llama.cpp splits texts by the name of the pre-tokenizer (transformers takes GPT-2's for every file).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import INDEX, WEIGHTS, read_json
from sft.adapters.evaluation.as_saved import GENERATION_CONFIG
from sft.adapters.export.gguf_vocabulary import Vocabulary, tokenizer_json
from sft.adapters.export.prompts import compare_prompts
from sft.adapters.os import child
from sft.chat.special_tokens import stops
from sft.chat.template import Renderer
from sft.errors import StageError
from sft.files import write_json

_LOSSLESS = {("float32", "f32"), ("bfloat16", "bf16"), ("bfloat16", "f32"), ("float16", "f16"), ("float16", "f32")}
"""Pairs of a checkpoint's type and a file's of which no weight is rounded."""


def _read(request: Mapping[str, Any]) -> Mapping[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    file, out, source = Path(request["file"]), Path(request["out"]), Path(request["model_dir"])
    tokenizer, ends = _tokenizer(file, out)
    original = AutoTokenizer.from_pretrained(source)
    renderers = Renderer(original, stops(original, source)), Renderer(tokenizer, frozenset(ends.values()))
    result: dict[str, Any] = {"prompts": compare_prompts(*renderers, request["held_out"]), **_matrices(file, request)}
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    difference = _largest_difference(model, source)
    if difference and (request["saved_dtype"], request["type"]) in _LOSSLESS:
        raise StageError(f"the weights in the file differ by {difference:.2g} from the run's", fix="report it: a bug")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config = GenerationConfig()
    model.save_pretrained(out)
    ends_at = {"eos_token_id": list(ends), "pad_token_id": tokenizer.pad_token_id}
    write_json(out / GENERATION_CONFIG, {**_generation(source), **ends_at})
    return {**result, "largest_weight_difference": difference}


def _generation(source: Path) -> dict[str, Any]:
    """Return how the run's model writes, which a GGUF file doesn't say: both are scored alike."""
    file = source / GENERATION_CONFIG
    return read_json(file) if file.is_file() else {}


def _matrices(file: Path, request: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return GGML's type of each matrix by its name, and the length of its rows.

    Raises:
        StageError: The file says that it holds another type than was asked for.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    said = gguf.LlamaFileType(reader.fields["general.file_type"].contents()).name
    if said.removeprefix("ALL_").removeprefix("MOSTLY_").lower() != request["type"]:
        raise StageError(f"the file says that it is {said}, and {request['type']} was asked for")
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) > 1]
    types = {tensor.name: tensor.tensor_type.name for tensor in matrices}
    return {"types": types, "widths": {tensor.name: int(tensor.shape[0]) for tensor in matrices}}


def read_fields(file: Path) -> dict[str, Any]:
    """Return the metadata of a GGUF file by key."""
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def _tokenizer(file: Path, out: Path) -> tuple[Any, dict[int, str]]:
    """Write the tokenizer that a file holds into a folder; return it, and the tokens at which the model stops."""
    from transformers import AutoTokenizer

    fields = read_fields(file)
    told = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    vocabulary = Vocabulary(tokens=told["tokens"], types=told["token_type"], merges=told["merges"], pre=told["pre"])
    ends = {told[key]: told["tokens"][told[key]] for key in ("eos_token_id", "eot_token_id") if key in told}
    special = {"bos_token": told["bos_token_id"], "eos_token": told["eos_token_id"]}
    if "padding_token_id" in told:
        special["pad_token"] = told["padding_token_id"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields[f"{fields['general.architecture']}.context_length"],
        **{name: told["tokens"][number] for name, number in special.items()},
    }
    out.mkdir(parents=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary), ensure_ascii=False), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (out / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")
    return AutoTokenizer.from_pretrained(out), ends


def _largest_difference(model: Any, source: Path) -> float:
    """Return of the tensor that differs most by how much it does: root of the summed squares, of those of its own.

    Raises:
        StageError: A tensor is missing in the file, or has another shape.
    """
    import torch
    from safetensors import safe_open

    read = model.state_dict()
    shards = {WEIGHTS} if (source / WEIGHTS).is_file() else {*read_json(source / INDEX)["weight_map"].values()}
    largest = 0.0
    for shard in sorted(shards):
        with safe_open(source / shard, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no mapping
                own = weights.get_tensor(name).float()
                if name not in read or read[name].shape != own.shape:
                    raise StageError(f"{name} was not read back from the file", fix="report it: a bug")
                gap = torch.linalg.vector_norm(read[name].float() - own)
                largest = max(largest, float(gap / torch.linalg.vector_norm(own).clamp(min=1e-12)))
    return largest


if __name__ == "__main__":
    child.main(_read)
