"""Safetensors headers: read as they are, and refused in words where they are not what the format says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sft.adapters.checkpoint_files import INDEX, Tensor, config_dtype, read_header, read_tensors, stored_dtype
from sft.errors import StageError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(folder: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    """A file with this header, and this length before it if it is not the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def test_types_and_shapes_are_those_that_the_library_wrote(tmp_path: Path) -> None:
    weights = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((4,), np.float16), "c": np.zeros((), np.int64)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = {"a": Tensor("F32", (2, 3)), "b": Tensor("F16", (4,)), "c": Tensor("I64", ())}
    assert read_tensors(tmp_path) == expected
    assert [tensor.size for tensor in expected.values()] == [6, 4, 1]
    assert stored_dtype(tmp_path) == "float32"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"header": {"a": ENTRY}, "length": 2**64 - 1}, "its header should have 18,446,744,073,709,551,615 bytes"),
        ({"header": {"a": ENTRY}, "length": 10 * 2**30}, "its header should have 10,737,418,240 bytes"),
        ({"header": b"\xff\xfe{}"}, "its header is not JSON (UnicodeDecodeError)"),
        ({"header": b"{"}, "its header is not JSON (JSONDecodeError)"),
        ({"header": b"[" * 100_000}, "its header is not JSON (RecursionError)"),
        ({"header": [1]}, "its header is not a JSON object"),
        ({"header": {"a": 1}}, "a needs a known dtype, a shape and two data_offsets"),
        ({"header": {"a": {**ENTRY, "dtype": "F33"}}}, "a needs a known dtype"),
        ({"header": {"a": {**ENTRY, "dtype": ["F32"]}}}, "a needs a known dtype"),
        ({"header": {"a": {**ENTRY, "shape": [-2]}}}, "a needs a known dtype, a shape"),
        ({"header": {"a": {**ENTRY, "shape": [True, 2]}}}, "a needs a known dtype, a shape"),
        ({"header": {"a": {**ENTRY, "data_offsets": [0, 8, 9]}}}, "two data_offsets"),
        ({"header": {"a": {**ENTRY, "shape": [3]}}}, "a has 8 bytes, not those of F32 [3]"),
        ({"header": {"a": {**ENTRY, "data_offsets": [8, 0]}}}, "a has -8 bytes, not those of F32 [2]"),
        ({"header": {"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}}, "b begins at byte 4"),
        ({"header": {"a": ENTRY}, "data": bytes(7)}, "its tensors should have 8 bytes, but 7 follow the header"),
        ({"header": {"a": ENTRY}, "data": bytes(9)}, "its tensors should have 8 bytes, but 9 follow the header"),
    ],
)
def test_a_malformed_header_is_an_error_that_names_file_and_fault(
    content: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = raw(tmp_path, **content)
    with pytest.raises(StageError) as caught:
        read_header(file)
    assert caught.value.message.startswith(f"{file}: not a whole safetensors file: ")
    assert said in caught.value.message
    assert caught.value.fix


def test_whatever_bytes_a_file_has_are_tensors_or_an_error_in_words(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    numbers = random.Random(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole[: numbers.randrange(len(whole) + 1)] if numbers.random() < 0.3 else whole)
        for _ in range(numbers.randrange(4)):
            if damaged:
                damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        try:
            read_header(tmp_path / "damaged.safetensors")
        except StageError:
            refused += 1
    assert refused > 1000


def sharded(folder: Path, weight_map: Any) -> Path:
    for number, name in enumerate("ab", start=1):
        save_file({name: np.zeros(2, np.float32)}, folder / f"model-{number}.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return folder


BOTH = {"a": "model-1.safetensors", "b": "model-2.safetensors"}


def test_shards_are_read_as_their_index_says(tmp_path: Path) -> None:
    assert read_tensors(sharded(tmp_path, BOTH)) == dict.fromkeys("ab", Tensor("F32", (2,)))


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({**BOTH, "c": "model-3.safetensors"}, "model-3.safetensors is missing"),
        ({**BOTH, "c": "model-2.safetensors"}, "no shard holds c"),
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, "holds b, which model.safetensors.index.json"),
        ({"a": "model-2.safetensors", "b": "model-2.safetensors"}, "no shard holds a"),
        ({"a": "../model-1.safetensors"}, "names ../model-1.safetensors"),
        ({"a": 1}, "weight_map must map each tensor to its file"),
        ([], "weight_map must map each tensor to its file"),
    ],
)
def test_an_index_that_its_shards_contradict_is_refused(weight_map: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        read_tensors(sharded(tmp_path, weight_map))
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({}, None),
    ],
)
def test_a_config_says_its_type_under_either_name(config: dict[str, Any], dtype: str | None) -> None:
    assert config_dtype(config) == dtype
