"""Named held-out sets in a run: scored beside the split, held to a gate, and scored again only if their rows change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Answer, records, sft_in_process, steps
from tests.support.training import metrics

pytestmark = pytest.mark.slow
ROWS = "q,a\n12,one two\n345,three four five\n12,one two\n9,nine\n"
SETTINGS = [
    *("eval.tasks=[]", "eval.holdout.generate=false", "eval.holdouts.support.uri=support.csv"),
    *("eval.holdouts.support.format=prompt_completion", "eval.holdouts.support.columns.prompt=q"),
    *("eval.holdouts.support.columns.completion=a", "dataset.max_samples=200", "training.num_epochs=1"),
]


def score(folder: Path, *overrides: str) -> Answer:
    command = ("run", "quickstart", "--until", "evaluate:base", *SETTINGS, *overrides)
    return sft_in_process(*command, cwd=folder)


@pytest.mark.long
def test_a_set_is_scored_and_scored_again_only_if_its_rows_are_others(tmp_path: Path) -> None:
    (tmp_path / "support.csv").write_text(ROWS)
    assert score(tmp_path).status == 0
    (tmp_path / "moved.csv").write_text(ROWS)
    assert score(tmp_path, "eval.holdouts.support.uri=moved.csv").status == 0
    (tmp_path / "support.csv").write_text(ROWS + "8,eight\n")
    again = score(tmp_path)
    assert "23 answers were there before, 1 are new" in again.out
    moved, changed = (steps(record) for record in records(tmp_path / "runs"))
    assert not moved["dataset:support"]["reused"]
    assert moved["evaluate:base"]["reused"]
    assert not changed["evaluate:base"]["reused"]
    assert changed["tokenize"]["reused"]
    facts = changed["evaluate:base"]["facts"]
    metrics = ["loss", "perplexity", "token_accuracy"]
    found = [(score["task"], score["metric"], score["num_samples"]) for score in facts["scores"]]
    assert found == [*(("holdout", name, 20) for name in metrics), *(("support", name, 4) for name in metrics)]
    assert facts["task_data"]["support"] != moved["evaluate:base"]["facts"]["task_data"]["support"]

    sets = [setting for setting in SETTINGS if setting.startswith("eval.")]
    alone = sft_in_process("eval", moved["model"]["path"], *sets, cwd=tmp_path)  # without a dataset
    assert "support.loss" in alone.out
    assert "holdout.loss" not in alone.out

    sft_in_process("store", "prune", "--now", cwd=tmp_path)
    assert (tmp_path / "runs" / "store" / ".answers" / moved["model"]["output"]).is_dir()


def test_a_row_that_the_tokenizer_refuses_stops_the_run_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "support.csv").write_text(ROWS + "8<|im_end|>,eight\n")
    answer = score(tmp_path)
    assert answer.status == 1
    assert "eval.holdouts.support: 1 of 4 rows are invalid (1 special-token)" in answer.err


VALIDATES = ["training.validation_sets=[support]", "training.select.metric=validation_loss.support"]


def test_a_plan_says_which_sets_are_validated_and_that_the_scores_of_one_that_chooses_are_optimistic(
    tmp_path: Path,
) -> None:
    (tmp_path / "support.csv").write_text(ROWS)
    planned = sft_in_process("plan", "quickstart", *SETTINGS, *VALIDATES, cwd=tmp_path)
    assert planned.status == 0, planned.err
    assert "validates  support, at the end of each epoch (training.validation_sets)" in planned.out
    assert "\ntokenize:support:labels" in planned.out
    assert "of the steps that are validated, so scores on support will be optimistic" in planned.out


@pytest.mark.exhaustive
def test_a_run_that_is_chosen_by_a_set_beside_sources_tells_its_loss_everywhere(tmp_path: Path) -> None:
    (tmp_path / "support.csv").write_text(ROWS)
    uri = "synthetic://spell-numbers?rows=100&seed="
    sources = [f"dataset.sources.{name}.uri='{uri}{seed}'" for name, seed in (("a", 1), ("b", 2))]
    overrides = [*SETTINGS, *VALIDATES, "dataset.uri=", *sources, "training.max_steps=3", "registry=none"]
    overrides += ["training.validation_frequency=1", "training.validation_split=0.1"]
    done = sft_in_process("run", "quickstart", *overrides, cwd=tmp_path)
    assert done.status == 0, done.err
    [record] = records(tmp_path / "runs")
    made = steps(record)
    rows = metrics(Path(made["train"]["path"]))
    losses = [row["validation_loss.support"] for row in rows]
    assert len(losses) == 3
    assert all({"validation_loss", "validation_loss.a", "validation_loss.b"} < row.keys() for row in rows)
    choice = made["train"]["facts"]["choice"]
    assert (choice["value"], choice["sets"], choice["num_models"]) == (min(losses), ["support"], 3)
    optimistic = "scores on support are optimistic: on the same samples the best of 3 models was chosen"
    folder = next((tmp_path / "runs").glob("*/run.json")).parent
    assert optimistic in done.out
    assert optimistic in (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert optimistic in (folder / "run.html").read_text(encoding="utf-8")
    assert sft_in_process("verify", str(folder), cwd=tmp_path).status == 0
    again = sft_in_process("plan", "quickstart", *overrides, cwd=tmp_path)
    assert "validates  support (3 samples, " in again.out
