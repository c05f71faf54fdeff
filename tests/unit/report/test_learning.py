"""What is read of the files in which ranks write."""

from __future__ import annotations

from pathlib import Path

from sft.report.learning import read_resumes, read_steps


def test_every_whole_row_is_read_however_many_and_nothing_else(tmp_path: Path) -> None:
    content = "".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(1, 10_001)).encode()
    no_rows = b'\xff\n[]\n{"loss": 1}\n' + b'{"step": 1, "x": "' + b"a" * (3 << 20) + b'"}\n' + b'{"step": 10001, "lo'
    (tmp_path / "metrics.jsonl").write_bytes(content + no_rows)
    steps = read_steps(tmp_path)
    assert [one.step for one in steps] == list(range(1, 10_001))
    assert {one.loss for one in steps} == {1.5}


def test_a_training_that_has_not_begun_has_none(tmp_path: Path) -> None:
    assert read_steps(tmp_path) == []
    assert read_steps(tmp_path / "metrics.jsonl" / "no") == []
    assert read_resumes(tmp_path) == []
