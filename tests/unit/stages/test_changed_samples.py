"""The samples that changed most, of held-out sets and of tasks, with both answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sft.artifacts import EvalReport
from sft.scores import Score
from sft.stages.changed_samples import NUM_SAMPLES, most_changed


def report(root: Path, files: dict[str, list[dict[str, Any]]], *scores: str) -> EvalReport:
    root.mkdir()
    for name, rows in files.items():
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"value": 0.0, "stderr": None, "num_samples": 1, "higher_is_better": True}
    made = [Score(task=name.partition(".")[0], metric=name.partition(".")[2], **facts) for name in scores]
    return EvalReport(root=root, model_digest="", scores=tuple(made))


def turn(sample: int, loss: float, **changes: Any) -> dict[str, Any]:
    row = {"sample": sample, "turn": 1, "prompt": f"p{sample}", "target": "t", "answer": f"says {loss}"}
    return row | {"num_tokens": 2, "loss": loss, "num_correct": 1, "exact_match": 0.0} | changes


def document(number: int, right: float, **changes: Any) -> dict[str, Any]:
    arguments = {f"gen_args_{place}": {"arg_0": "q", "arg_1": f" choice {place}"} for place in range(2)}
    answers = [[-1.0, False], [-2.0, False]] if right else [[-3.0, False], [-2.0, False]]
    row = {"doc_id": number, "target": 0, "arguments": arguments, "filtered_resps": answers, "filter": "none"}
    return row | {"acc": right} | changes


def test_turns_are_ordered_by_how_far_their_metrics_moved(tmp_path: Path) -> None:
    names = ("holdout.loss", "holdout.token_accuracy", "holdout.exact_match", "holdout.perplexity")
    before = report(tmp_path / "base", {"samples_holdout.jsonl": [turn(n, 4.0) for n in range(4)]}, *names)
    rows = [turn(0, 3.9), turn(1, 4.0), turn(2, 8.0), turn(3, 4.0, exact_match=1.0)]
    after = report(tmp_path / "tuned", {"samples_holdout.jsonl": rows}, *names)
    found = most_changed(before, after)
    assert [sample.sample for sample in found] == [3, 2, 0]
    second = found[1]
    assert (second.task, second.turn, second.prompt, second.reference) == ("holdout", 1, "p2", "t")
    assert (second.base, second.tuned) == ("says 4.0", "says 8.0")
    assert second.scores == {"loss": (2.0, 4.0), "token_accuracy": (0.5, 0.5), "exact_match": (0.0, 0.0)}


def test_no_more_than_a_page_holds_are_kept_of_each_set_and_of_all_tasks(tmp_path: Path) -> None:
    tasks = {f"samples_{task}_2026-01-01T00-00-00.0.jsonl": [document(n, 0.0) for n in range(30)] for task in "ab"}
    sets = {f"samples_{name}.jsonl": [turn(n, 1.0) for n in range(30)] for name in ("holdout", "support")}
    names = ("holdout.loss", "support.loss", "a.acc", "b.acc")
    before = report(tmp_path / "base", tasks | sets, *names)
    tasks = {name: [document(n, 1.0) for n in range(30)] for name in tasks}
    sets = {name: [turn(n, 2.0 + n) for n in range(30)] for name in sets}
    found = most_changed(before, report(tmp_path / "tuned", tasks | sets, *names))
    assert [sum(sample.task == name for sample in found) for name in ("holdout", "support")] == [NUM_SAMPLES] * 2
    assert sum(sample.task in "ab" for sample in found) == NUM_SAMPLES


def test_a_choices_answer_is_the_likelier_one_and_a_texts_is_what_was_written(tmp_path: Path) -> None:
    choice, text = "samples_arc_2026-01-01T00-00-00.0.jsonl", "samples_arc_write_2026-01-01T00-00-00.0.jsonl"
    names = ("arc.acc", "arc_write.exact_match")
    reports = []
    for which, right in (("base", 0.0), ("tuned", 1.0)):
        written = {"filtered_resps": [f"{which} wrote"], "filter": "flexible", "exact_match": right, "target": "42"}
        other = document(7, 1.0 - right, exact_match=0.0)
        files = {choice: [document(5, right)], text: [document(7, right, **written), other]}
        reports.append(report(tmp_path / which, files, *names))
    arc, write = most_changed(*reports)
    assert (arc.task, arc.sample, arc.turn, arc.reference) == ("arc", 5, None, "choice 0")
    assert (arc.base, arc.tuned) == ("choice 1", "choice 0")
    assert (write.task, write.reference, write.base, write.tuned) == ("arc_write", "42", "base wrote", "tuned wrote")


def test_without_logged_samples_there_are_none(tmp_path: Path) -> None:
    assert most_changed(report(tmp_path / "base", {}, "a.acc"), report(tmp_path / "tuned", {}, "a.acc")) == []
