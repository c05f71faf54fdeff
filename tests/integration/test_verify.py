"""What a run read from elsewhere is checked too: the base model's files, and the source of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sft import self_hashed_json
from sft.artifacts import ModelArtifact
from sft.runner.verify import verify
from tests.support.command import sft, sft_in_process

_LATER = ("evaluate:base", "train", "evaluate:tuned", "compare", "package", "register")
ROW = json.dumps({"messages": [{"role": "user", "content": "12345"}, {"role": "assistant", "content": "one two"}]})


@pytest.fixture
def run(tiny_model: ModelArtifact, tmp_path: Path) -> Path:
    """A run that was refused when it had a dataset and a model: its sample has more tokens than fit."""
    shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(ROW + "\n")
    settings = ["dataset=local", "dataset.uri=rows.jsonl", "dataset.train_split=1.0", "training.max_seq_len=3"]
    answer = sft("run", "quickstart", *settings, "model=hub", "model.name_or_path=model", cwd=tmp_path)
    assert answer.status == 1, answer.out
    [run] = tmp_path.glob("runs/quickstart-*")
    return run


@pytest.mark.long
def test_the_base_model_and_the_source_are_compared_with_what_was_read(run: Path) -> None:
    untouched = verify(run)
    assert untouched.problems == []
    assert untouched.notes == [
        "tokenize is failed: nothing to check",
        *(f"{name} is pending: nothing to check" for name in _LATER),
    ]
    root = run.parents[1]
    weights, rows = root / "model" / "model.safetensors", root / "rows.jsonl"
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with rows.open("a") as file:
        file.write(ROW)
    changed = verify(run)
    [problem] = changed.problems
    assert problem.startswith(f"{weights}: differs: its sha256 is")
    assert f"{rows}: is no longer what the dataset was made of; the dataset itself is in the store" in changed.notes
    shutil.rmtree(weights.parent)
    assert f"the base model is no longer at {weights.parent}: not checked" in verify(run).notes


@pytest.mark.long
def test_a_run_is_found_from_within_its_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "below").mkdir()
    for folder, name in ((run, "."), (run, "run.json"), (run / "below", "..")):
        monkeypatch.chdir(folder)
        assert verify(Path(name)).problems == []


@pytest.mark.long
@pytest.mark.parametrize("until", [["--until", "dataset"], ["--until=dataset"], ["--unt", "dataset"]])
def test_a_part_of_a_plan_is_as_recorded_however_it_was_asked_for(until: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW + "\n")
    settings = ["dataset=local", "dataset.uri=rows.jsonl", "dataset.train_split=1.0"]
    answer = sft_in_process("run", *until, "quickstart", *settings, cwd=tmp_path)
    assert answer.status == 0, answer.err
    [run] = tmp_path.glob("runs/quickstart-*")
    assert verify(run).problems == []


@pytest.mark.long
def test_a_step_that_was_removed_is_missed_also_where_tracebacks_were_asked_for(run: Path) -> None:
    file = run / "run.json"
    facts = self_hashed_json.load_checked(file.read_bytes())
    facts["command"].insert(1, "--debug")
    facts["steps"] = [step for step in facts["steps"] if step["name"] != "evaluate:base"]
    file.write_bytes(self_hashed_json.dump_with_digest(facts))
    assert verify(run).problems == [f"{file}: its settings ask for evaluate:base, which it does not tell of"]
