"""Text of lm-eval's own documents is found in training data, listed, and dropped before anything is trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact
from sft.config.compose import shipped
from sft.config.schema import DatasetConfig
from sft.errors import DataError, StageError
from sft.progress import Progress
from sft.stages.dataset import dataset
from sft.stages.decontaminate import HELD_OUT, EvaluationTasks, find
from tests.support.command import sft

pytestmark = pytest.mark.slow
TASKS = shipped("recipes") / "tasks"
SPELLING = EvaluationTasks(("spell_numbers",), str(TASKS))
GSM8K = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" if "SFT_TEST_DATA" in os.environ else None
GSM8K_TASK = """\
task: school_math
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
"""


def row(question: str, answer: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


def leaked() -> list[dict[str, Any]]:
    """The first two documents of the recipe's task."""
    return [json.loads(line) for line in (TASKS / "spell_numbers.jsonl").read_text().splitlines()[:2]]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty clean rows, a question of the task in other spelling, and the number alone of another."""
    first, second = (document["question"] for document in leaked())
    lines = [row(f"Say {n} letters", "abc"[: n % 4] or "none") for n in range(20)]
    lines += [row(first.upper().rstrip("."), "no"), row(second.split()[-1], "no")]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def make(rows: Path, tasks: EvaluationTasks = SPELLING, **settings: Any) -> DatasetArtifact:
    out = rows / "out"
    out.mkdir()
    cfg = DatasetConfig(uri=str(rows / "rows.jsonl"), **({"train_split": 1.0} | settings))
    return dataset(cfg, out, Progress(quiet=True), tasks)


def test_leaked_rows_are_dropped_kept_aside_and_all_rows_add_up(rows: Path) -> None:
    data = make(rows, decontaminate=True)
    assert (data.num_rows, data.num_train, data.num_contaminated) == (22, 20, 2)
    assert data.num_accounted == data.num_rows
    assert len(data.train_file.read_text().splitlines()) == 20
    aside = [json.loads(line) for line in (data.root / "contaminated.jsonl").read_text().splitlines()]
    assert [(o["evaluation"], o["document"]) for entry in aside for o in entry["overlaps"]] == [
        ("spell_numbers", 1),
        ("spell_numbers", 2),
    ]
    assert aside[0]["sample"]["messages"][0]["content"].startswith("SPELL OUT")
    digests = json.loads((data.root / "decontamination.json").read_text())["tasks"]
    assert [(name, len(digest)) for name, digest in digests.items()] == [("spell_numbers", 64)]


def test_without_the_setting_nothing_is_dropped_and_nothing_is_compared(rows: Path) -> None:
    data = make(rows, EvaluationTasks(("no_such_task",)))
    assert (data.num_train, data.num_contaminated) == (22, 0)


def test_held_out_text_is_dropped_from_training_without_any_task(tmp_path: Path) -> None:
    story = "once upon a time there was a king who had three daughters and one old horse"
    lines = [row(f"Tell story {n} of {n * 7919}", f"Well {n * 31} and {n}.") for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, row("A tale!", f"Well: {story}!")]) + "\n")
    (tmp_path / "test.jsonl").write_text("\n".join([row("Tell it", story.title()), *lines[:3]]) + "\n")
    data = make(tmp_path, EvaluationTasks(), decontaminate=True, eval_uri=str(tmp_path / "test.jsonl"))
    assert (data.num_train, data.num_overlap, data.num_contaminated) == (47, 3, 1)
    assert "A tale!" in (data.root / "contaminated.jsonl").read_text()


def test_a_training_split_of_nothing_but_leaks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(row(leaked()[0]["question"], "no") + "\n")
    with pytest.raises(DataError, match="each of 1 training samples shares text with what the model is scored on"):
        make(tmp_path, decontaminate=True)


def test_a_task_that_there_is_not_is_an_error_that_names_it(rows: Path) -> None:
    with pytest.raises(StageError, match="there is no lm-eval task no_such_task"):
        make(rows, EvaluationTasks(("no_such_task",)), decontaminate=True)


@pytest.mark.long
def test_a_task_whose_data_is_on_a_hub_out_of_reach_says_so(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(rows / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    with pytest.raises(StageError, match=r"can't load arc_easy: .*allenai/ai2_arc") as caught:
        make(rows, EvaluationTasks(("arc_easy",)), decontaminate=True)
    assert "check that the hub can be reached" in str(caught.value)


@pytest.mark.skipif(GSM8K is None, reason="SFT_TEST_DATA is not set")
def test_of_school_mathematics_the_planted_questions_are_found_and_the_others_are_not(tmp_path: Path) -> None:
    assert GSM8K is not None
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "math.yaml").write_text(GSM8K_TASK.format(file=GSM8K / "test.jsonl"))
    documents = [json.loads(line) for line in (GSM8K / "test.jsonl").read_text().splitlines()]
    train = [json.loads(line) for line in (GSM8K / "train.jsonl").read_text().splitlines()[:1000]]
    planted = [row(f"Please solve this.\n\n{d['question'].upper()}", "I can't.") for d in documents[:5]]
    (tmp_path / "train.jsonl").write_text(
        "\n".join([*(row(r["question"], r["answer"]) for r in train), *planted]) + "\n"
    )
    (tmp_path / "eval.jsonl").write_text("")
    tasks = EvaluationTasks(("school_math",), str(tmp_path / "tasks"))
    found = find(tmp_path / "train.jsonl", {"holdout": tmp_path / "eval.jsonl"}, tasks, tmp_path / "child")
    assert 5 <= found.by_evaluation["school_math"] < 15  # GSM8K's own halves share some phrases
    assert len(found.examples["school_math"]) == 3


@pytest.mark.long
def test_data_check_lists_what_is_shared_as_text_json_and_page(rows: Path) -> None:
    options = ["--against-tasks", "spell_numbers", f"eval.include_path={TASKS}"]
    answer = sft("data", "check", "rows.jsonl", *options, "dataset.train_split=0.9", "--html", "page.html", cwd=rows)
    assert answer.status == 0
    assert "spell_numbers                2" in answer.out
    assert 'spell_numbers, document 2: "' in answer.out
    assert f"{HELD_OUT}               0" in answer.out
    assert "spell_numbers, document 2" in (rows / "page.html").read_text()
    report = json.loads(sft("data", "check", "rows.jsonl", "--json", *options, cwd=rows).out)
    assert report["shared"] == {"spell_numbers": 2}
