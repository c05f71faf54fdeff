"""Samples that were done survive a kill, in their own order."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sft.adapters.evaluation.sample_log import SampleLog


def test_samples_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    with closing(SampleLog(tmp_path / "samples.jsonl")) as log:
        for number in (2, 0, 1):
            log.add({"sample": number, "text": "ä"})
        assert [row["sample"] for row in log.in_order()] == [0, 1, 2]
        log.add({"sample": 3, "text": ""})  # reading moved the file's position
        assert len(log) == 4
        assert 3 in log
        assert 4 not in log


def test_a_line_that_was_cut_off_is_dropped_and_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_bytes(b'{"sample": 0, "text": "a"}\n{"sample": 1, "te')
    with closing(SampleLog(file)) as log:
        assert 1 not in log
        log.add({"sample": 1, "text": "b"})
    with closing(SampleLog(file)) as log:
        assert [row["text"] for row in log.in_order()] == ["a", "b"]
