"""How a file is shared among processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.instructlab import loss_masks


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7, 64])
def test_parts_cover_the_file_and_end_at_line_ends(
    num_processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_masks, "_PART_BYTES", 16)
    file = tmp_path / "train.jsonl"
    content = b"".join(b"x" * (n * 7 % 31) + b"\n" for n in range(40)) + b"y" * 200 + b"\n"
    file.write_bytes(content)
    parts = loss_masks._ranges(file, num_processes)
    assert b"".join(content[begin:end] for begin, end in parts) == content
    assert all(content[begin:end].endswith(b"\n") for begin, end in parts)
    assert len(parts) <= num_processes
