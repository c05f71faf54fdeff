"""A source's name is read from a line's end, and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.chat.source_name import count_sources, naming, source_of


def line(content: str, name: str) -> bytes:
    sample = json.dumps({"messages": [{"role": "user", "content": content}]}, separators=(",", ":")).encode()
    return sample[:-1] + naming(name) + b"\n"


@pytest.mark.parametrize("content", ["hello", ',"source":"other"}', '"}', "\\", '{"source":"x"}'])
def test_no_text_of_a_sample_is_taken_for_its_source(content: str) -> None:
    assert source_of(line(content, "maths")) == "maths"
    assert json.loads(line(content, "maths"))["source"] == "maths"


def test_a_line_without_a_name_has_none() -> None:
    assert source_of(b'{"messages":[{"role":"user","content":",\\"source\\":\\"x"}]}\n') == ""
    assert source_of(b'{"messages":[],"metadata":{"a":1,"source":"x"}}\n') == ""


def test_samples_are_counted_by_source_also_within_another_object(tmp_path: Path) -> None:
    plain, nested = tmp_path / "plain.jsonl", tmp_path / "nested.jsonl"
    lines = [line("a", "maths"), line("b", "chat"), line("c", "chat")]
    plain.write_bytes(b"".join(lines))
    nested.write_bytes(b"".join(b'{"overlaps":[],"sample":' + one.rstrip() + b"}\n" for one in lines))
    assert count_sources(plain) == count_sources(nested, nested=True) == {"maths": 1, "chat": 2}
