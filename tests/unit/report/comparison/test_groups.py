"""Only scores that were taken in the same way compare, and the first of them is held against the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft import record, sample_values
from sft.record import RunRecord, StepRecord
from sft.report.comparison.groups import evaluation_of, first_two, grouped
from sft.report.comparison.rows import compare
from sft.report.comparison.text import as_csv, as_text, group_lines
from sft.sample_values import SampleValues

SETTINGS: dict[str, Any] = {
    "tasks": ["t"], "limit": None, "num_fewshot": None, "gen_kwargs": {}, "model_args": {}, "device": "cpu",
    "apply_chat_template": False, "batch_size": "auto", "holdout": {"limit": None, "max_new_tokens": 9},
    "versions": {"torch": "2", "transformers": "5"}, "revision": 6,
}  # fmt: skip
FACTS: dict[str, Any] = {
    "task_data": {"t": "d" * 64, "holdout": "h" * 64},
    "chat_template_sha256": "c" * 64,
    "held_out_tokens": {"holdout": 7},
}  # fmt: skip


def run(
    root: Path,
    name: str,
    value: float,
    values: list[float] | None = None,
    facts: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run with scores `holdout.loss`, the mean of `values`, and `t.acc`."""
    common = {"stderr": 0.1, "num_samples": 9, "value": value}
    scores = [
        {"task": "holdout", "metric": "loss", "higher_is_better": False, **common},
        {"task": "t", "metric": "acc", "higher_is_better": True, **common},
    ]
    steps = [
        StepRecord(name="tokenize", status="done", output="k" * 64),
        StepRecord(name="train", status="done", key=name, output="t", facts={"final_loss": value}),
        StepRecord(
            name="evaluate:tuned", status="done", key=name, output="e",
            facts={"scores": scores} | FACTS | (facts or {}),
            settings=SETTINGS | (settings or {}), files={"samples_holdout.jsonl": ""},
        ),
    ]  # fmt: skip
    made = RunRecord(
        run_id=name, status="done", recipe="r.yaml", command=[], cwd="/", config={"name": "r"}, git_commit=None,
        versions={}, machine={}, steps=steps, started_at=f"2026-01-01T00:00:0{name[-1]}Z",
    )  # fmt: skip
    (root / name).mkdir()
    made.save(root / name)
    place = root / "store" / "evaluate" / name
    place.mkdir(parents=True)
    if values:
        kept = SampleValues(score="holdout.loss", units=list(range(len(values))), sums=values)
        sample_values.append(place, [kept])
    return root / name


@pytest.mark.parametrize(
    ("score", "facts", "settings", "differs"),
    [
        ("holdout.loss", {}, {"tasks": ["u"], "limit": 5, "num_fewshot": 3, "batch_size": "1", "device": "gpu"}, {}),
        ("holdout.loss", {"task_data": {"t": "x", "holdout": "h" * 64}}, {}, {}),
        ("t.acc", {"chat_template_sha256": "x"}, {"holdout": {"limit": 3, "max_new_tokens": 1}}, {}),
        ("t.acc", {"task_data": {"t": "d" * 64, "u": "x"}}, {"tasks": ["t", "u"]}, {}),
        ("train.loss", {"chat_template_sha256": "x"}, {"num_fewshot": 3}, {}),
        (
            "holdout.loss",
            {"task_data": {"holdout": "x" * 64}},
            {"holdout": {"limit": 3, "max_new_tokens": 9}},
            {"data of holdout": ("hhhhhhhh", "xxxxxxxx"), "limit": ("null", "3")},
        ),
        ("holdout.loss", {"chat_template_sha256": "x"}, {}, {"chat template": ("cccccccc", "x")}),
        ("holdout.loss", {"held_out_tokens": {"holdout": 8}}, {}, {"tokens of the answers": ("7", "8")}),
        ("holdout.loss", {}, {"model_args": {"dtype": "float16"}}, {"eval.model_args.dtype": ("", "float16")}),
        ("t.acc", {"dtype": "float16"}, {}, {"dtype": ("", "float16")}),
        ("t.acc", {}, {"num_fewshot": 3}, {"eval.num_fewshot": ("null", "3")}),
        ("t.acc", {}, {"versions": {"torch": "3", "transformers": "5"}}, {"versions.torch": ("2", "3")}),
    ],
)
def test_what_bears_on_a_score_and_nothing_else_divides_runs(
    score: str, facts: dict[str, Any], settings: dict[str, Any], differs: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    run(tmp_path, "r-1", 1.0)
    run(tmp_path, "r-2", 2.0)
    run(tmp_path, "r-3", 0.5, facts=facts, settings=settings)
    found = compare([tmp_path], score)
    if not differs:
        assert [group.size for group in found.groups] == [3]
        return
    assert [(group.size, group.differs) for group in found.groups] == [
        (2, {name: ours for name, (ours, _) in differs.items()}),
        (1, {name: others for name, (_, others) in differs.items()}),
    ]
    assert [row.group for row in found.rows] == [1, 1, 2]
    assert [row.is_best for row in found.rows] == [True, False, False]


def test_losses_of_other_objectives_do_not_compare(tmp_path: Path) -> None:
    for number, settings in enumerate([{}, {"loss": "dft"}, {"label_smoothing": 0.1, "learning_rate": 1.0}]):
        folder = run(tmp_path, f"r-{number}", 1.0)
        rec = record.load(folder)
        assert rec is not None
        next(step for step in rec.steps if step.name == "train").settings = settings
        rec.save(folder)
    groups = compare([tmp_path], "train.loss").groups
    assert [group.size for group in groups] == [1, 1, 1]
    assert groups[1].differs == {"training.loss": "dft", "training.label_smoothing": ""}


def test_nothing_is_crowned_across_groups_and_it_is_said_what_differs(tmp_path: Path) -> None:
    run(tmp_path, "r-1", 1.0, values=[1.0] * 8)
    run(tmp_path, "r-2", 2.0, values=[1.5, 2.5] * 4)
    run(tmp_path, "r-3", 0.5, facts={"task_data": {"holdout": "x" * 64}})
    found = compare([tmp_path])
    assert list(group_lines(found)) == [
        "holdout.loss was not taken in one way, so only the runs of a group compare:",
        "group 1, 2 runs: data of holdout hhhhhhhh",
        "★ 1 against 2: -1.0000, better (-1.4469 to -0.5531)",
        "group 2, 1 run: data of holdout xxxxxxxx",
    ]
    lines = as_text(found).splitlines()
    assert lines[0].split()[:3] == ["#", "group", "run"]
    assert [line.split()[0] for line in lines[1:4]] == ["★", "2", "3"]
    assert [line.split(",")[3] for line in as_csv(found).splitlines()[1:]] == ["1", "1", "2"]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.0, 1.1, 0.9, 1.0], [1.0, 1.1, 0.9, 1.0], "+0.0000, no difference seen (no sample differs)"),
        ([1.0, 1.1, 0.9, 1.0], [1.1, 1.0, 1.3, 1.0], "-0.1000, no difference seen (±0.4511)"),
        ([1.0], [2.0], "no paired test: one sample has no error"),
        ([1.0, 2.0], [2.0], "no paired test: the two models were not scored on the same samples"),
        ([1.0, 2.0], None, "no paired test: the values of the samples are not in the store"),
    ],
)
def test_the_first_is_held_against_the_second(
    first: list[float], second: list[float] | None, said: str, tmp_path: Path
) -> None:
    taken = []
    for number, values in enumerate([first, second]):
        folder = run(tmp_path, f"r-{number}", 1.0, values=values)
        rec = record.load(folder)
        assert rec is not None
        taken.append(evaluation_of(rec, folder, "holdout.loss"))
    assert first_two("holdout.loss", *taken, higher_is_better=False, confidence=0.95) == said


def test_a_score_that_is_no_mean_over_samples_has_no_paired_test(tmp_path: Path) -> None:
    for number in range(2):
        run(tmp_path, f"r-{number}", float(number), values=[1.0, 2.0])
    for score, first in (("t.acc", 2), ("train.loss", 1)):
        [group] = compare([tmp_path], score).groups
        assert group.first_two == f"{first} against {3 - first}: no paired test: it is no mean over samples"


def test_a_judges_win_rates_compare_if_the_judge_the_data_and_the_base_models_answers_are_the_same(
    tmp_path: Path,
) -> None:
    rate = {"task": "judge", "metric": "win_rate", "higher_is_better": True, "stderr": 0.1, "num_samples": 6}
    for number, (model, won) in enumerate([("a", 0.0), ("a", 1.0), ("b", 1.0)]):
        folder = run(tmp_path, f"r-{number}", 1.0)
        rec = record.load(folder)
        assert rec is not None
        judge = StepRecord(
            name="judge", status="done", key=f"j{number}", output="j", inputs={"dataset": "d", "evaluate:base": "e"},
            settings={"judge": {"model": model}, "seed": 1},
            facts={"score": rate | {"value": won}, "answered_by": [model]},
        )  # fmt: skip
        rec.steps.append(judge)
        rec.save(folder)
        place = tmp_path / "store" / "judge" / f"j{number}"
        place.mkdir(parents=True)
        sample_values.append(place, [SampleValues(score="judge.win_rate", units=list(range(8)), sums=[won] * 8)])
    found = compare([tmp_path], "judge.win_rate")
    assert [group.differs for group in found.groups] == [
        {"eval.judge.model": "a", "answered by": '["a"]'},
        {"eval.judge.model": "b", "answered by": '["b"]'},
    ]
    assert found.groups[0].first_two.startswith("2 against 1: +1.0000, better")


def test_runs_without_the_score_are_in_no_group() -> None:
    assert grouped([None, None]) == ([], [0, 0])
