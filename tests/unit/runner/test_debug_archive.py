"""An archive of a run for an issue: what it tells, and that no row, no answer and no secret is in it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from sft import record
from sft.artifacts import DatasetArtifact
from sft.store import Store
from tests.support.command import sft_in_process

ROW = "Our client Marlene Hopper owes 4711 euros since March"
REFUSED = "The door code of the vault is nine nine one"
ANSWER = "Dear Marlene, the vault is closed until further notice"
KEY = "0123456789abcdef0123"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose tokenize step has failed, and has quoted what it should not."""
    store = Store(tmp_path / "runs" / "store")
    store.open()
    out = store.staging("dataset", KEY, resume=False)
    chat = {"messages": [{"role": "user", "content": ROW}, {"role": "assistant", "content": ANSWER}]}
    (out / "train.jsonl").write_text(json.dumps(chat) + "\n")
    (out / "eval.jsonl").touch()
    (out / "rejected.jsonl").write_text(
        json.dumps({"row": {"messages": [{"role": "user", "content": REFUSED}]}}) + "\n"
    )
    counts = {"num_rows": 2, "num_train": 1, "num_eval": 0, "num_rejected": 1, "num_duplicates": 0, "num_unused": 0}
    made = DatasetArtifact(root=out, source="chats.jsonl", source_version="1", **counts)
    store.publish(KEY, "dataset", made, settings={}, inputs={}, seconds=1.5)
    folder = tmp_path / "runs" / "my-1a2b3c4d"
    folder.mkdir()
    run_record = record.begin(
        run_id=folder.name,
        recipe=tmp_path / "my.yaml",
        command=["sft", "run", "my.yaml"],
        config={"dataset": {"uri": "https://me:canary-login@host.example/chats.jsonl", "system_prompt": None}},
        gpus=[],
        resources={},
        steps=["dataset", "tokenize"],
    )
    run_record.status = "failed"
    first, second = run_record.steps
    first.status, first.key, first.seconds = "done", KEY, 1.5
    second.status, second.error = "failed", f"chats.jsonl:2: turn 1 begins {REFUSED[:30]}; take it out"
    run_record.save(folder)
    log = [
        f"the model wrote: {ANSWER}",
        f'the prompt: "{ROW[11:40]}"',
        "server said canary-of-the-environment",
        "loss 0.5",
    ]
    (folder / "run.log").write_text("\n".join(log) + "\n")
    return folder


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }


def test_it_tells_what_happened_and_holds_no_row_no_answer_and_no_secret(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"MY_TOKEN": "canary-of-the-environment", "NCCL_DEBUG": "canary-of-the-environment"}
    answer = sft_in_process("debug", str(run), cwd=tmp_path, **environment)
    assert answer.status == 0, answer.err
    told = contents(tmp_path / "my-1a2b3c4d-debug.tar.gz")
    everything = "\n".join(told.values())
    for text in (ROW, REFUSED, ANSWER):
        words = text.split()
        for place in range(len(words) - 3):
            assert " ".join(words[place : place + 4]) not in everything
    for word in ("Hopper", "door code", "canary", str(Path.home() / "")):
        assert word not in everything
    assert "tokenize            failed" in told["steps.txt"]
    assert "chats.jsonl:2: turn 1 begins (a text of the data)" in told["steps.txt"]
    assert "loss 0.5" in told["run.log"]
    assert json.loads(told["record.json"])["steps"][0]["key"] == KEY
    assert json.loads(told["machine.json"])["memory_bytes"] > 0
    assert "NCCL_DEBUG" in json.loads(told["machine.json"])["environment"]
    assert "torch==" in told["versions.txt"]
    assert "train.jsonl" in told["files.txt"]


def test_it_is_not_written_over_another(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_text("mine")
    answer = sft_in_process("debug", str(run), "--output", "a.tar.gz", cwd=tmp_path)
    assert (answer.status, "a.tar.gz is there already" in answer.err) == (1, True)
    assert (tmp_path / "a.tar.gz").read_text() == "mine"


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    answer = sft_in_process("debug", ".", cwd=tmp_path)
    assert (answer.status, "no run.json" in answer.err) == (1, True)
