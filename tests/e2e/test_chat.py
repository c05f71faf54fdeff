"""`sft chat` with a run: its model, the one that it began with, and runs that have none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft import self_hashed_json
from tests.support.command import Answer, sft_in_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the quickstart, on cores that others use too


def chat(*arguments: str, said: str, cwd: Path) -> Answer:
    command = [sys.executable, "-m", "sft", "chat", *arguments]
    done = subprocess.run(command, cwd=cwd, input=said, capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def run_of(done: tuple[Path, Answer]) -> Path:
    return done[0] / done[1].run


def changed(run: Path, root: Path, **facts: object) -> Path:
    """A run of another root, without a store, whose record says something else."""
    folder = root / run.name
    folder.mkdir()
    record = {**json.loads((run / "run.json").read_text()), **facts}
    record.pop("digest", None)
    (folder / "run.json").write_bytes(self_hashed_json.dump_with_digest(record))
    return folder


@pytest.mark.long
def test_a_runs_model_spells_numbers_and_its_base_does_not(done: tuple[Path, Answer], tmp_path: Path) -> None:
    answer = chat(str(run_of(done)), "--base", "--max-tokens", "20", said="Spell 27.\n/save kept.jsonl\n", cwd=tmp_path)
    assert answer.status == 0, answer.err
    base, _, tuned = answer.out.partition("tuned: ")
    assert base.startswith("base: ")
    assert tuned.strip() != base.removeprefix("base: ").strip()
    [kept] = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
    assert kept["messages"][-1]["content"].strip() == tuned.strip()


@pytest.mark.long
def test_a_run_moved_with_its_store_still_answers(done: tuple[Path, Answer], tmp_path: Path) -> None:
    shutil.copytree(done[0] / "runs", tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.db", ".staging"))
    run = tmp_path / "elsewhere" / run_of(done).name
    assert chat(str(run), "--max-tokens", "5", said="1\n", cwd=tmp_path).status == 0


def test_a_failed_run_says_why_it_has_no_model_and_how_it_continues(done: tuple[Path, Answer], tmp_path: Path) -> None:
    steps = json.loads((run_of(done) / "run.json").read_text())["steps"]
    for step in steps:
        if step["name"] in ("train", "package"):
            step |= {"status": "failed", "key": None, "error": "the loss is NaN\nmore"}
    run = changed(run_of(done), tmp_path, status="failed", steps=steps)
    answer = sft_in_process("chat", str(run), cwd=tmp_path)
    assert answer.status == 1
    assert "no model: the run is failed in train (the loss is NaN)" in answer.err
    assert "repeat its command, which continues: sft run quickstart" in answer.err


def test_a_run_that_was_killed_says_so(done: tuple[Path, Answer], tmp_path: Path) -> None:
    run = changed(run_of(done), tmp_path, status="running")
    answer = sft_in_process("chat", str(run), cwd=tmp_path)
    assert (answer.status, "not finished: it was killed" in answer.err) == (1, True), answer.err


def test_a_run_whose_store_is_gone_says_where_it_was(done: tuple[Path, Answer], tmp_path: Path) -> None:
    answer = sft_in_process("chat", str(changed(run_of(done), tmp_path)), cwd=tmp_path)
    assert (answer.status, f"its model is not in {tmp_path / 'store'}" in answer.err) == (1, True), answer.err


def test_code_that_ran_in_a_run_does_not_run_again_unless_somebody_says_so(
    done: tuple[Path, Answer], tmp_path: Path
) -> None:
    record = json.loads((run_of(done) / "run.json").read_text())
    record["config"]["model"]["trust_remote_code"] = True
    run = changed(run_of(done), tmp_path, config=record["config"])
    (tmp_path / "store").symlink_to(done[0] / "runs" / "store")
    answer = sft_in_process("chat", str(run), cwd=tmp_path)
    assert answer.status == 2
    assert "if you trust it, add model.trust_remote_code=true" in answer.err
