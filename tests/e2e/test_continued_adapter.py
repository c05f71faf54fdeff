"""An adapter trained by one run and continued by the next, by the commands that docs/adapters.md shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from tests.support.command import Answer, sft, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(command: str, base: Path, root: Path, *more: str) -> Answer:
    shape = [
        *("model=hub", f"model.name_or_path={base}", "registry=none", "eval.tasks=[]", "eval.holdout.limit=8"),
        *("dataset.uri=synthetic://spell-numbers?rows=300&seed=0", "eval.holdout.max_new_tokens=4"),
        *("training.num_epochs=1", "training.launcher.procs_per_worker=1"),
    ]
    return sft(command, "quickstart", *shape, *more, cwd=root)


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def loss_of(record: dict[str, Any], step: str) -> float:
    scores = {score["metric"]: score["value"] for score in steps(record)[step]["facts"]["scores"]}
    return float(scores["loss"])


@pytest.mark.exhaustive
def test_the_next_run_begins_where_the_first_one_ended(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    base = tiny_model.model_dir
    first = run("run", base, tmp_path, "training/lora=default", "training.lora.rank=4")
    assert first.status == 0, first.err
    [old] = tmp_path.glob("runs/quickstart-*")
    more = [f"model.adapter={old}", "model.adapter_use=continued"]
    plan = run("plan", base, tmp_path, *more)
    assert plan.status == 0, plan.err
    assert f"continues  {old}: rank 4, alpha 32, dropout 0.1 (training.lora)" in plan.out
    assert "before the training is that adapter on its model, and not the model alone" in plan.out
    refused = run("plan", base, tmp_path, *more, "training.lora.rank=8")
    assert refused.status == 2
    assert "training.lora.rank=8: contradicts the adapter that is continued, which has 4" in refused.err
    second = run("run", base, tmp_path, *more)
    assert second.status == 0, second.err
    [new] = {*tmp_path.glob("runs/quickstart-*")} - {old}
    records = [record_of(folder) for folder in (old, new)]
    before, after = (
        loss_of(record, f"evaluate:{which}") for record, which in zip(records, ("tuned", "base"), strict=True)
    )
    assert after == pytest.approx(before, abs=1e-4)
    assert loss_of(records[1], "evaluate:tuned") < after
    configs = [json.loads((folder / "adapter" / "adapter_config.json").read_text()) for folder in (old, new)]
    assert [config["base_model_name_or_path"] for config in configs] == [str(base)] * 2
    assert [config["r"] for config in configs] == [4, 4]
    assert records[1]["config"]["training"]["lora"]["rank"] == 4
    verified = sft("verify", str(new), cwd=tmp_path)
    assert verified.status == 0, verified.out + verified.err
    again = run("run", base, tmp_path, *more)
    assert again.status == 0, again.err
    assert {*tmp_path.glob("runs/quickstart-*")} == {old, new}
