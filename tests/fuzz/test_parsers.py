"""Whatever bytes a parser of ours gets, it reads them or refuses them in words."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sft import record, self_hashed_json
from sft.adapters import readers
from sft.adapters.checkpoint_files import read_header
from sft.chat.formats import Parser, recognise
from sft.chat.row_reader import Columns
from sft.chat.sample import InvalidRow
from sft.config import compose
from sft.store import Store
from sft.sweep import records
from tests.fuzz.search import search

JSON = [
    *(b'"', b"\\", b"\\ud800", b"\\u0000", b"[", b"]", b"{", b"}", b",", b":", b"null", b"true", b"1e999", b"-0"),
    *(b"9" * 400, b"[" * 3000, b"\xff", b"\xef\xbb\xbf", b"\n", b"NaN", b"Infinity", b'""', b"{}"),
]
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", "weight": 1}]},
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], "tools": None},
    {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "rain", "arguments": '{"in": "Paris"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "no"},
            {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        ],
        "tools": [{"type": "function", "function": {"name": "rain", "parameters": {"properties": {"in": {}}}}}],
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": 0}]},
    {"instruction": "Add", "input": "2 2", "output": "4", "history": [["a", "b"]]},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "label": True},
]
WORDS = [
    *(b'"role"', b'"system"', b'"tool"', b'"weight"', b'"content"', b'"train"', b'"reasoning_content"', b'"text"'),
    *(b'"assistant"', b'"tool_calls"', b'"arguments"', b'"prompt"', b'"completion"', b'"messages"', b" "),
]


def parse_row(row: bytes) -> None:
    """A row is a sample or breaks a rule, and is the same alone as among others."""
    row = row.replace(b"\n", b" ")
    parser = Parser(*recognise(row, Columns(), None))
    among_others, alone = parser.many(row + b"\n"), None
    try:
        alone = parser.one(row)
    except InvalidRow:
        assert among_others is None, "valid among others, and refused alone"
        raise
    assert msgspec.json.decode(alone.line)["messages"]
    assert among_others is None or among_others.lines == [alone.line]


def test_a_row_is_a_sample_or_breaks_a_rule() -> None:
    odd = {**ROWS[0], "\tools": None, 'a"b': 1}  # found: no field of a struct can have such a name
    search(parse_row, [json.dumps(row).encode() for row in [*ROWS, odd]], [*JSON, *WORDS], refused_by=InvalidRow)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_file_of_rows_is_read_or_named(name: str) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    tables = [b"prompt,completion\nHi,Hello\n", b'"a","b"\r\n"x\ny","z"\r\n']
    seeds = [lines, json.dumps(ROWS).encode(), json.dumps({"data": ROWS}).encode(), *tables, gzip.compress(lines)]
    tokens = [*JSON, b"\r", b";", b"\t", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]

    def parse(content: bytes) -> None:
        for _ in readers.batches(name, io.BytesIO(content)):
            pass

    search(parse, seeds, tokens, naming=name)


RECIPE = b"""\
defaults:
  - config
  - _self_
name: own
dataset:
  uri: rows.jsonl
  train_split: 0.9
training:
  learning_rate: 1.0e-5
  launcher: {num_workers: 1}
  env: {OMP_NUM_THREADS: "1"}
eval:
  tasks: [arc_easy]
  gates: {arc_easy.acc: ">= 0.5"}
"""
YAML = [
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"- ", b": ", b"? ", b"| ", b"> ", b"\t"),
    *(b"${oc.env:X}", b"${name}", b"${", b"???", b"~", b"@", b"_target_: os.system", b"hydra: null", b"\xff", b"\0"),
    *(b"defaults: ", b"override ", b"2001-01-01", b".nan", b"1_0", b"0o7", b"{", b"}", b"[", b"]", b"'", b'"', b"#"),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Hydra's, of a defaults list without _self_
def test_a_recipe_is_composed_or_its_problems_are_named(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        compose.compose(compose.find_recipe(str(file)), [])

    group = RECIPE.replace(b"- config\n  - _self_", b"- defaults: _self_")  # found: Hydra only asserts that it is none
    search(parse, [RECIPE, group], [*YAML, b"\n", b"\n  "], examples=15)


def test_an_override_is_taken_or_its_problem_is_named(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(RECIPE)
    recipe = compose.find_recipe(str(file))

    def parse(content: bytes) -> None:
        compose.compose(recipe, [content.decode("utf-8", "surrogateescape")])

    seeds = [b"training.learning_rate=1e-5", b"dataset=local", b"+eval.gen_kwargs.x=[1,{a: b}]", b"~eval.gates"]
    search(parse, seeds, [*YAML, b"=", b"+", b"~", b"++", b".", b",", b"(", b")", b"choice(1,2)", b"\\"], examples=12)


def test_a_record_is_read_or_is_none_of_this_version(tmp_path: Path) -> None:
    started = record.begin(
        run_id="a-1",
        recipe=Path("a.yaml"),
        command=["sft"],
        config={"name": "a"},
        gpus=[],
        resources={},
        steps=["dataset"],
    )
    started.save(tmp_path)
    file = tmp_path / record.NAME

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        found = record.load(tmp_path)
        assert found is None or found.steps is not None

    search(parse, [file.read_bytes()], JSON)


def test_a_document_with_its_digest_is_unchanged_or_refused() -> None:
    seed = self_hashed_json.dump_with_digest({"a": [1, 0.5, None], "b": {"c": "ä"}})

    def parse(content: bytes) -> None:
        self_hashed_json.load_checked(content)
        assert content == seed

    search(parse, [seed], [*JSON, b'"digest"'], refused_by=ValueError)


def test_a_sweeps_record_is_read_or_named(tmp_path: Path) -> None:
    file = tmp_path / records.NAME

    def parse(content: bytes) -> None:
        try:
            facts = json.loads(content)
            file.write_bytes(self_hashed_json.dump_with_digest(facts) if isinstance(facts, dict) else content)
        except (ValueError, RecursionError):
            file.write_bytes(content)
        records.load(tmp_path)

    seed = json.dumps({"name": "a", "keys": [], "command": [], "objective": None, "points": 2}).encode()
    search(parse, [seed], JSON, naming=str(file))


def test_an_artifacts_manifest_is_read_or_its_folder_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.root / "dataset" / "0123"
    folder.mkdir(parents=True)
    facts = {
        "schema": 2,
        "artifact": "DatasetArtifact",
        "stage": "dataset",
        "key": "0123",
        "digest": "",
        "files": {"a": "b"},
        "sizes": {"manifest.json": 10},
        "facts": {"num_train": 1},
        "settings": {},
        "inputs": {},
        "seconds": 1.0,
        "made_at": 1.0,
    }

    def parse(content: bytes) -> None:
        (folder / "manifest.json").write_bytes(content)
        if found := store.find("dataset", "0123"):
            _ = found.artifact

    nul = json.dumps({**facts, "sizes": {"a\0": 1}}).encode()  # found: no file can have such a name
    search(parse, [json.dumps(facts).encode(), nul], JSON, naming=str(folder))


def test_a_safetensors_header_is_read_or_its_file_is_named(tmp_path: Path) -> None:
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    ).encode()
    seed = struct.pack("<Q", len(header)) + header + bytes(24)
    file = tmp_path / "model.safetensors"

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        assert all(tensor.size >= 0 for tensor in read_header(file).values())

    search(parse, [seed], [*JSON, b'"dtype"', b'"shape"', b'"BF16"', b"-1", b"\x00" * 8], naming=str(file))
