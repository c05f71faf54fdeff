"""Which scores tasks give, read from their files, beside what lm-eval itself finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation import task_index
from sft.adapters.evaluation.task_scores import DEFAULT_METRICS, TaskScores, task_scores


def test_a_task_says_its_metrics_and_its_further_filters() -> None:
    assert task_scores(["gsm8k"], None) == {
        "gsm8k": TaskScores({"exact_match": True}, ("flexible-extract",), is_zero_shot=False, writes=True)
    }
    found = task_scores(["squadv2"], None)
    assert found is not None
    assert not found["squadv2"].is_complete  # a class of Python


@pytest.mark.slow
def test_a_recipes_own_tasks_are_read_with_what_they_include(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("output_type: multiple_choice\ntag: mine\nmetric_list:\n- metric: acc\n")
    (tmp_path / "a.yaml").write_text("include: base.yml\ntask: mine_a\ntag: mine\n")
    (tmp_path / "b.yaml").write_text(
        "include: base.yml\ntask: mine_b\nmetric_list:\n- metric: !function code.spelling\n  aggregation: median\n"
    )
    (tmp_path / "all.yaml").write_text(
        "group: both\ntask: [mine_a, {task: mine_b, num_fewshot: 0, process_results: !function c.f}]\n"
    )
    (tmp_path / "code.py").write_text("raise SystemExit('imported')\n")
    chosen: dict[str, Any] = {"is_zero_shot": False, "writes": False}
    assert task_scores(["mine"], tmp_path) == {
        "mine_a": TaskScores({"acc": None}, **chosen),
        "mine_b": TaskScores({"spelling": False}, **chosen),
    }
    assert task_scores(["both"], tmp_path) == {
        "both": TaskScores({}, None),
        "mine_a": TaskScores({"acc": None}, **chosen),
        "mine_b": TaskScores({"spelling": False}, is_complete=False, is_zero_shot=True, writes=False),
    }
    assert task_scores(["mine_c"], tmp_path) is None
    (tmp_path / "b.yaml").write_text("task: mine_b\ninclude: b.yaml\n")
    assert task_scores(["mine"], tmp_path) is None


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ai2_arc", "glue", "mmlu", "bbh", "truthfulqa", "leaderboard"])
def test_lm_eval_finds_the_same_tasks_with_the_same_metrics(name: str) -> None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
    from lm_eval.tasks import TaskManager

    assert {kind: [*names] for kind, names in DEFAULT_METRICS.items()} == DEFAULT_METRIC_REGISTRY
    folders = task_index.folders([name])[name] | {task_index.root() / "glue", task_index.root() / "arc"}
    index = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False).task_index
    expected: dict[str, Any] = {}

    def expand(name: str) -> None:
        entry = index[name]
        if entry.kind.name == "TAG":
            for member in entry.tags:
                expand(member)
            return
        expected[name] = entry.cfg
        for member in (entry.cfg["task"] or []) if entry.kind.name == "GROUP" else []:
            expand(member if isinstance(member, str) else member["task"])

    expand(name)
    found = task_scores([name], None)
    assert found is not None
    assert found.keys() == expected.keys()
    for task, config in expected.items():
        listed = config.get("aggregate_metric_list" if "group" in config else "metric_list")
        if listed and "class" not in config:
            assert set(found[task].means) == {str(one["metric"]).rpartition(".")[2] for one in listed}
