"""Whoever changes a byte of what made a model, or of the model, is found out."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sft import self_hashed_json
from sft.runner.verify import verify
from tests.support.command import Answer, sft

pytestmark = pytest.mark.slow


@pytest.fixture
def run(done: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A finished run's folder, in a copy of its run root; links stay links."""
    subprocess.run(["cp", "-a", done[0] / "runs", tmp_path], check=True)
    return min(tmp_path.glob("runs/quickstart-*"), key=lambda folder: (folder / "run.json").stat().st_mtime)


def only(run: Path, pattern: str) -> Path:
    """The file of this run's own artifacts."""
    record = json.loads((run / "run.json").read_text())
    made = [run.parent / "store" / step["name"].partition(":")[0] / step["key"] for step in record["steps"]]
    [file] = [file for root in made for file in root.parent.parent.glob(pattern) if file.is_relative_to(root)]
    return file


def flip(file: Path, place: int | None = None) -> None:
    """Changes one bit in the middle of a file, in place."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    file.write_bytes(content)


def test_a_finished_run_and_its_model_are_as_recorded(run: Path, tmp_path: Path) -> None:
    answer = sft("verify", str(run), cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "files, everything is as recorded" in answer.out
    model = only(run, "package/*/model/sft.json").parent
    shutil.copytree(model, tmp_path / "elsewhere")
    alone = sft("verify", "elsewhere", cwd=tmp_path)
    assert alone.status == 0, alone.err
    manifest = json.loads((model.parent / "manifest.json").read_text())
    assert f"package.digest {manifest['digest']}" in alone.out


@pytest.mark.parametrize(
    "pattern",
    [
        "train/*/model/model.safetensors",
        "package/*/model/README.md",
        "dataset/*/train.jsonl",
        "tokenize/*/data.jsonl",
        "model/*/tokenizer.json",
        "register/*/registration.json",
    ],
)
def test_a_changed_byte_is_noticed_and_its_file_named(run: Path, pattern: str) -> None:
    file = only(run, pattern)
    flip(file)
    problems = verify(run).problems
    assert any(problem.startswith(f"{file}: differs: its sha256 is") for problem in problems)
    assert all("sha256" in problem for problem in problems)


def test_a_byte_of_linked_weights_is_noticed_on_both_sides(run: Path) -> None:
    flip(only(run, "train/*/model/model.safetensors"))
    package = only(run, "package/*/model/model.safetensors")
    assert any(problem.startswith(f"{package}: differs") for problem in verify(run).problems)
    assert verify(package.parent).problems[0].startswith(f"{package}: differs")


def test_any_byte_of_the_record_is_noticed(run: Path) -> None:
    file = run / "run.json"
    content = file.read_bytes()
    for place in range(0, len(content), 997):
        flip(file, place)
        [problem] = verify(run).problems
        assert problem.startswith(f"{file}: ")
        file.write_bytes(content)


@pytest.mark.parametrize("pattern", ["package/*/model/sft.json", "train/*/manifest.json"])
def test_a_byte_of_the_other_accounts_is_noticed(run: Path, pattern: str) -> None:
    file = only(run, pattern)
    flip(file)
    assert any(problem.startswith(str(file)) for problem in verify(run).problems)


def test_a_record_that_was_changed_together_with_its_digest_is_noticed(run: Path) -> None:
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    facts["config"]["training"]["learning_rate"] = 1e-6
    [step] = [step for step in facts["steps"] if step["name"] == "dataset"]
    step["facts"]["source"] = "s3://elsewhere"
    file.write_bytes(self_hashed_json.dump_with_digest(facts))
    told = only(run, "package/*/model/sft.json")
    assert [problem for problem in verify(run).problems if problem.startswith(str(told))] == [
        f"{told}: dataset is not what the record says",
        f"{told}: config is not what the record says",
    ]


def test_files_that_are_gone_or_were_added_are_named(run: Path) -> None:
    weights = only(run, "package/*/model/model.safetensors")
    weights.unlink()
    (weights.parent / "pytorch_model.bin").touch()
    assert verify(weights.parent).problems == [
        f"{weights}: is gone",
        f"{weights.parent / 'pytorch_model.bin'}: is not in the record",
    ]
    shutil.rmtree(weights.parents[1])
    assert f"{weights.parents[1]}: is gone" in verify(run).problems


def test_a_difference_exits_with_1_and_is_said(run: Path, tmp_path: Path) -> None:
    file = only(run, "dataset/*/eval.jsonl")
    flip(file)
    answer = sft("verify", str(run / "run.json"), cwd=tmp_path)
    assert answer.status == 1
    assert answer.err.startswith(f"error: run {run}: 1 difference\n  - {file}: differs: its sha256 is ")


def test_what_is_neither_run_nor_model_is_said(tmp_path: Path) -> None:
    answer = sft("verify", ".", cwd=tmp_path)
    assert answer.status == 1
    assert "neither run.json nor sft.json is there" in answer.err
