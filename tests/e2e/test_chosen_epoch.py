"""A run whose model is the epoch's with the best score, not the last one's; killed in between, it chooses the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sft.files import sha256_file
from sft.kfp import tasks
from tests.support.command import records, sft, start, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SETTINGS = [
    *("dataset.max_samples=400", "training.num_epochs=3", "training.effective_batch_size=16"),
    *("training.learning_rate=0.02", "training.launcher.procs_per_worker=1"),
    *("eval.tasks=[]", "eval.baseline=false", "eval.holdout.metrics=[loss]", "eval.holdout.generate=false"),
    *("eval.every_epochs=1", "training.select.metric=wrong.loss"),
]


@dataclass
class Copy:
    """KFP's artifact."""

    path: str
    uri: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def conversation(number: int, answer: str) -> str:
    turns = [{"role": "user", "content": f"Spell out {number}."}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.mark.exhaustive
def test_the_best_epochs_model_goes_on_although_the_run_was_killed_and_the_last_epoch_is_better_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that are wrong are the less likely, the better the model has learned: that set wants an early epoch."""
    numbers = range(13_579, 13_579 + 61 * 30, 61)
    wrong = [conversation(n, " ".join(DIGITS[(int(digit) + 5) % 10] for digit in str(n))) for n in numbers]
    (tmp_path / "wrong.jsonl").write_text("".join(f"{line}\n" for line in wrong))
    settings = [*SETTINGS, f"eval.holdouts.wrong.uri={tmp_path / 'wrong.jsonl'}"]
    killed = start("run", "quickstart", *settings, cwd=tmp_path)
    assert killed.stdout
    assert any("evaluate:epoch-2 …" in line for line in killed.stdout), "it ended before"
    killed.kill()
    killed.communicate()

    answer = sft("run", "quickstart", *settings, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "= train: done before" in answer.out
    [record] = records(tmp_path / "runs")
    made = steps(record)
    scores = {
        epoch: {f"{score['task']}.{score['metric']}": score["value"] for score in facts["facts"]["scores"]}
        for epoch, facts in ((epoch, made[f"evaluate:epoch-{epoch}"]) for epoch in (1, 2, 3))
    }
    best = min(scores, key=lambda epoch: scores[epoch]["wrong.loss"])
    assert best < 3
    assert scores[3]["holdout.loss"] < scores[best]["holdout.loss"]

    train = Path(made["train"]["path"])
    rows = [json.loads(line) for line in (train / "logs" / "metrics.jsonl").read_text().splitlines()]
    end = max((row for row in rows if row["epoch"] < best), key=lambda row: row["step"])
    weights = sha256_file(train / "checkpoints" / f"samples_{end['samples_seen']}" / "model.safetensors")
    assert weights != sha256_file(train / "model" / "model.safetensors")
    [folder] = tmp_path.glob("runs/quickstart-*")
    packaged = Path(made["package"]["path"]) / "model"
    for model in (folder / "model", packaged, Path(made["select"]["path"]) / "model"):
        assert sha256_file(model / "model.safetensors") == weights
    assert {score["value"] for score in made["evaluate:tuned"]["facts"]["scores"]} == {*scores[best].values()}

    choice = made["select"]["facts"]["choice"]
    assert (choice["step"], choice["epoch"], choice["num_models"]) == (end["step"], best, 3)
    assert choice["value"] == scores[best]["wrong.loss"]
    assert made["train"]["facts"]["choice"] is None
    said = f"chose step {end['step']} of {rows[-1]['step']}, the end of epoch {best}, by wrong.loss "
    optimistic = "scores on wrong are optimistic: on the same samples the best of 3 models was chosen"
    for text in (answer.out, (packaged / "README.md").read_text(), (folder / "run.html").read_text()):
        assert said in text
        assert optimistic in text
    registered = made["register"]["facts"]["metadata"]
    assert registered["checkpoint.choice"].startswith(said)
    assert registered["checkpoint.digest"] == made["select"]["output"]
    verified = sft("verify", str(folder), cwd=tmp_path)
    assert verified.status == 0, verified.out + verified.err

    again = sft("run", "quickstart", *settings, cwd=tmp_path)
    assert "nothing to do" in again.out

    monkeypatch.setenv("HF_HOME", "")
    last, scored, final = (Copy(str(tmp_path / name)) for name in ("last", "scored", "final"))
    whole = ("quickstart", [*settings, f"run_root={tmp_path / 'runs'}"], str(tmp_path))
    page = Copy(str(tmp_path / "page"))
    tasks.training(*whole, last, Copy(""), page)
    assert last.metadata["chosen_by"] == "the last epoch's model; the registry task has the one that wrong.loss chooses"
    assert sha256_file(Path(last.path, "model.safetensors")) != weights
    tasks.evaluation(*whole, scored, page)
    assert scored.metadata["model"].startswith(said)
    assert f"chosen step {end['step']}" in Path(page.path).read_text()
    tasks.registry(*whole, "id", "name", final)
    assert sha256_file(Path(final.path, "model.safetensors")) == weights
