"""A checkpoint's files: names, types and shapes of the tensors, read from headers alone, and what lies beside them.

Standard library only, and no weight is read. Format: https://github.com/huggingface/safetensors#format (8 bytes of
length, little-endian; a JSON header; the tensors one after the other).
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.errors import StageError
from sft.files import DOCUMENT_BYTES, read_document

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONFIG = "config.json"
_LARGEST_HEADER = DOCUMENT_BYTES
"""Less than the safetensors library takes, and the names of 100,000 tensors."""
_AS_IN_BASE = (
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates/*"),
    *("generation_config.json", "*processor_config.json", "*.py"),
)
"""Files of a base model that a model trained from it has too."""
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""Types that a model is trained from, by torch's name."""


@dataclass(frozen=True)
class Tensor:
    """What a header says about a tensor; `dtype` in the spelling of safetensors (``BF16``)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint by its name.

    Args:
        folder: Holds ``model.safetensors``, or an index and the shards that it names.

    Raises:
        StageError: A file is missing, malformed or cut short, or index and shards disagree.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    weight_map = _weight_map(folder / INDEX)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        for name, tensor in read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                where = weight_map.get(name, "nowhere")
                raise StageError(f"{folder / shard}: holds {name}, which {INDEX} expects {where}", fix=_FETCH)
            tensors[name] = tensor
    if lacking := sorted(weight_map.keys() - tensors.keys()):
        raise StageError(f"{folder / INDEX}: no shard holds {listed(lacking)}", fix=_FETCH)
    return tensors


_FETCH = "fetch the model again, or save it again with save_pretrained"


def _weight_map(index: Path) -> dict[str, str]:
    """Return which shard holds each tensor, once every shard is there, beside the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise StageError(f"{index}: weight_map must map each tensor to its file", fix=_FETCH)
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise StageError(f"{index}: names {shard}, which is not a safetensors file beside it", fix=_FETCH)
    if missing := [shard for shard in sorted(set(weight_map.values())) if not (index.parent / shard).is_file()]:
        raise StageError(f"{index.parent}: {listed(missing)} is missing, which {index.name} names", fix=_FETCH)
    return weight_map


def file_of(folder: Path, name: str) -> Path:
    """Return the file of a checkpoint that holds a tensor."""
    return folder / (WEIGHTS if (folder / WEIGHTS).is_file() else _weight_map(folder / INDEX)[name])


def copy_as_in_base(base: Path, model: Path) -> None:
    """Give a model made of another one the files that this doesn't change, byte for byte.

    Its tokenizer: saved again it gains settings that the base model's has not. And what the library leaves behind
    (utils.py:700@0.16.2): ``generation_config.json``, which says at which tokens the model stops, and its own code.

    Args:
        base: Folder of the model that it was made of.
        model: Its own folder.
    """
    for pattern in _AS_IN_BASE:
        for file in model.glob(pattern):
            file.unlink()
        for file in base.glob(pattern):
            (model / file.relative_to(base)).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, model / file.relative_to(base))


def read_header(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file.

    Raises:
        StageError: It is malformed or cut short.
    """
    num_bytes = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if num_bytes < 8 or length > min(num_bytes - 8, _LARGEST_HEADER):
            raise _malformed(file, f"its header should have {length:,} bytes, but the file has {num_bytes:,}")
        try:
            header = json.loads(stream.read(length).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _malformed(file, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _malformed(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    _check_offsets(file, header, num_bytes - 8 - length)
    return {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def _check_offsets(file: Path, header: Mapping[str, Any], num_bytes: int) -> None:
    """Raise unless the tensors lie one after the other and fill the file, each as large as type and shape say."""
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if not _is_entry(entry):
            raise _malformed(file, f"{name} needs a known dtype, a shape and two data_offsets")
        begin, end = entry["data_offsets"]
        if (end - begin) * 8 != math.prod(entry["shape"]) * _BITS[entry["dtype"]]:
            raise _malformed(file, f"{name} has {end - begin} bytes, not those of {entry['dtype']} {entry['shape']}")
        ranges.append((begin, end, name))
    place = 0
    for begin, end, name in sorted(ranges):
        if begin != place:
            raise _malformed(file, f"{name} begins at byte {begin}, but the tensor before it ends at {place}")
        place = end
    if place != num_bytes:
        raise _malformed(file, f"its tensors should have {place:,} bytes, but {num_bytes:,} follow the header")


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and entry["dtype"] in _BITS
        and _are_counts(entry.get("shape"))
        and _are_counts(entry.get("data_offsets"))
        and len(entry["data_offsets"]) == 2
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _malformed(file: Path, what: str) -> StageError:
    return StageError(f"{file}: not a whole safetensors file: {what}", fix=_FETCH)


def stored_dtype(folder: Path) -> str:
    """Return the float type of most of a checkpoint's weights, by torch's name: ``bfloat16``.

    Raises:
        StageError: The checkpoint can't be read, or holds no floats.
    """
    sizes: Counter[str] = Counter()
    for tensor in read_tensors(folder).values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] += tensor.size
    if not sizes:
        raise StageError(f"{folder}: no tensor is of a type that can be trained ({', '.join(FLOATS)})")
    return FLOATS[sizes.most_common(1)[0][0]]


def config_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the type that a ``config.json`` says its weights have; None where it doesn't."""
    nested = config["text_config"] if isinstance(config.get("text_config"), dict) else {}
    value = config.get("dtype") or config.get("torch_dtype") or nested.get("dtype") or nested.get("torch_dtype")
    return value if isinstance(value, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        StageError: The file is missing, or holds something else.
    """
    try:
        content = json.loads(read_document(path))
    except FileNotFoundError as error:
        raise StageError(f"{path}: no such file", fix=_FETCH) from error
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not valid JSON: {error}", fix=_FETCH) from error
    if not isinstance(content, dict):
        raise StageError(f"{path}: must be a JSON object", fix=_FETCH)
    return content


def listed(names: list[str], most: int = 4) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def files_of(folder: Path) -> Iterator[Path]:
    """Yield a model folder's own files, its further chat templates among them; hidden ones are not the model's."""
    present = sorted({*folder.iterdir(), *folder.glob("additional_chat_templates/*")})
    return (file for file in present if file.is_file() and not file.name.startswith("."))
