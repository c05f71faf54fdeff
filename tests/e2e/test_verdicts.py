"""A training that changes nothing, and a paired error computed again from what lm-eval and we log of each sample."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Answer, records, sft, steps

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
SETTINGS = [
    "training.num_epochs=1", "training.launcher.procs_per_worker=1", "dataset.max_samples=600", "registry=none",
    "eval.limit=60", "eval.holdout.max_new_tokens=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdicts")


@pytest.fixture(scope="module")
def unchanged(cwd: Path) -> Answer:
    """A run whose tuned model is the base model."""
    gates = ["eval.gates.holdout.loss=improvement > -0.01", "eval.no_regression=[holdout,spell_numbers]"]
    return sft("run", "quickstart", "training.learning_rate=0", *SETTINGS, *gates, cwd=cwd)


def test_a_model_that_learned_nothing_differs_nowhere(unchanged: Answer, cwd: Path) -> None:
    assert unchanged.status == 0, unchanged.err
    changes = steps(records(cwd / "runs")[0])["compare"]["facts"]["changes"]
    assert len(changes) == 7
    for change in changes:
        assert (change["verdict"], change["difference"]) == ("no difference seen", 0.0)
    assert unchanged.out.count("no difference seen (no sample differs)  (60 samples)") == 7
    page = next(cwd.glob("runs/*/run.html")).read_text()
    assert "No logged sample changed." in page


def test_the_paired_error_is_that_of_the_logged_samples(unchanged: Answer, cwd: Path) -> None:
    """Nothing of `sft` is used but what it wrote: differences and errors come from the samples' own files."""
    answer = sft("run", "quickstart", "training.learning_rate=1e-3", *SETTINGS, cwd=cwd)
    assert answer.status == 0, answer.err
    [record] = [one for one in records(cwd / "runs") if one["config"]["training"]["learning_rate"]]
    done = steps(record)
    base, tuned = (Path(done[name]["path"]) for name in ("evaluate:base", "evaluate:tuned"))
    changes = {change["score"]: change for change in done["compare"]["facts"]["changes"]}

    task = [rows(folder, "samples_spell_numbers_*.jsonl", "doc_id") for folder in (base, tuned)]
    pairs = [(task[0][number][0]["acc"], task[1][number][0]["acc"]) for number in task[0]]
    differences = [after - before for before, after in pairs]
    assert changes["spell_numbers.acc"]["difference"] == pytest.approx(mean(differences))
    assert changes["spell_numbers.acc"]["stderr"] == pytest.approx(deviation(differences) / math.sqrt(60))

    held_out = [rows(folder, "samples_holdout.jsonl", "sample") for folder in (base, tuned)]
    assert changes["holdout.loss"]["difference"] == pytest.approx(loss(held_out[1]) - loss(held_out[0]))
    without_one = [loss(held_out[1], number) - loss(held_out[0], number) for number in held_out[0]]
    jackknife = math.sqrt(59 / 60 * sum((one - mean(without_one)) ** 2 for one in without_one))
    assert changes["holdout.loss"]["stderr"] == pytest.approx(jackknife, rel=1e-3)
    assert changes["holdout.loss"]["verdict"] == "better"


def rows(folder: Path, pattern: str, key: str) -> dict[int, list[dict[str, Any]]]:
    """Logged rows of each sample, in the order of their numbers."""
    [file] = folder.glob(pattern)
    found = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row[key])
    return {number: list(group) for number, group in itertools.groupby(found, key=lambda row: row[key])}


def loss(samples: dict[int, list[dict[str, Any]]], left_out: int | None = None) -> float:
    """Loss per token of all samples but one."""
    turns = [turn for number, turns in samples.items() if number != left_out for turn in turns]
    return sum(turn["loss"] for turn in turns) / sum(turn["num_tokens"] for turn in turns)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))
