"""Whether stored tensors have the same values, read a few rows at a time."""

from __future__ import annotations

from pathlib import Path

from sft.adapters import checkpoint_files

_ROWS_AT_A_TIME = 4096


def are_equal(folder: Path, first: str, second: str) -> bool:
    """Return whether two tensors of a checkpoint have one shape and the same values, whatever their types.

    Args:
        folder: Of the checkpoint.
        first: Name of a tensor of one dimension or more, and
        second: of another.
    """
    import torch
    from safetensors import safe_open

    files = [checkpoint_files.file_of(folder, name) for name in (first, second)]
    with safe_open(files[0], "pt") as one, safe_open(files[1], "pt") as other:
        tables = one.get_slice(first), other.get_slice(second)
        if tables[0].get_shape() != tables[1].get_shape():
            return False
        starts = range(0, tables[0].get_shape()[0], _ROWS_AT_A_TIME)
        return all(torch.equal(*(table[i : i + _ROWS_AT_A_TIME].double() for table in tables)) for i in starts)
