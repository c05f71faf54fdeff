"""Tensors of a checkpoint are compared by their values, over shards and types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.checkpoint_files import INDEX
from sft.adapters.checkpoint_values import are_equal

pytestmark = pytest.mark.slow


def test_tensors_are_equal_by_shape_and_values_whatever_file_and_type_they_have(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    table = torch.arange(3 * 5000, dtype=torch.float32).reshape(5000, 3)
    last = table.clone()
    last[-1, -1] += 1
    small = table[:9].clone()
    save_file({"a": table, "small": small, "half": small.half()}, tmp_path / "1.safetensors")
    save_file({"same": table.clone(), "last": last}, tmp_path / "2.safetensors")
    weight_map = dict.fromkeys(("a", "small", "half"), "1.safetensors")
    weight_map |= dict.fromkeys(("same", "last"), "2.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert are_equal(tmp_path, "a", "same")
    assert not are_equal(tmp_path, "a", "last")
    assert not are_equal(tmp_path, "a", "small")
    assert are_equal(tmp_path, "small", "half")
