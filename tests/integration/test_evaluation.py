"""The evaluation stage with real lm-eval in a real child process."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact, EvalReport, ModelArtifact
from sft.config.compose import shipped
from sft.config.schema import EvalConfig, HoldoutConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, evaluate, tasks_version

pytestmark = pytest.mark.slow
TASKS = shipped("recipes") / "tasks"


@pytest.fixture
def inputs(tiny_data: DatasetArtifact, tiny_model: ModelArtifact) -> EvaluateInputs:
    return EvaluateInputs(
        model_dir=tiny_model.model_dir, model_digest="m" * 64, trust_remote_code=False, dataset=tiny_data
    )


def settings(**changes: Any) -> EvalConfig:
    usual = {
        "tasks": ["spell_numbers"],
        "include_path": str(TASKS),
        "apply_chat_template": True,
        "limit": 40,
        "holdout": HoldoutConfig(max_new_tokens=4),
    }
    return EvalConfig(**(usual | changes))


def run(cfg: EvalConfig, inputs: EvaluateInputs, out: Path) -> EvalReport:
    return evaluate(cfg, inputs, out, Progress(quiet=True))


def test_numbers_equal_lm_evals_own_command_line(inputs: EvaluateInputs, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    report = run(settings(), inputs, ours)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--tasks", "spell_numbers"]
    command += ["--model_args", f"pretrained={inputs.model_dir}", "--include_path", str(TASKS), "--limit", "40"]
    command += ["--apply_chat_template", "--output_path", str(theirs / "r.json"), "--seed", "1234"]
    subprocess.run(command, cwd=TASKS, check=True, capture_output=True)
    [path] = theirs.glob("r_*.json")
    expected = json.loads(path.read_text())["results"]["spell_numbers"]
    accuracy = report.score("spell_numbers.acc")
    assert accuracy is not None
    assert accuracy.num_samples == 40
    assert (accuracy.value, accuracy.stderr) == (expected["acc,none"], expected["acc_stderr,none"])

    [results], [samples] = ours.glob("results_*.json"), ours.glob("samples_spell_numbers_*.jsonl")
    assert json.loads(results.read_text())["results"]["spell_numbers"]["acc,none"] == accuracy.value
    assert len(samples.read_text().splitlines()) == 40


def test_the_held_out_split_is_scored_and_every_sample_kept(inputs: EvaluateInputs, tmp_path: Path) -> None:
    report = run(settings(tasks=[]), inputs, tmp_path)
    assert [score.name for score in report.scores] == ["holdout.loss", "holdout.token_accuracy", "holdout.exact_match"]
    assert {score.num_samples for score in report.scores} == {20}
    samples = [json.loads(line) for line in (tmp_path / "samples_holdout.jsonl").read_text().splitlines()]
    mean = sum(s["loss"] for s in samples) / sum(s["num_tokens"] for s in samples)
    assert report.scores[0].value == pytest.approx(mean)
    assert all(s["prompt"].endswith("<|im_start|>assistant\n") and s["answer"] is not None for s in samples)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["scores"] == [dataclasses.asdict(score) for score in report.scores]
    assert written["model_digest"] == inputs.model_digest
    assert len(written["chat_template_sha256"]) == 64


def test_without_a_held_out_split_only_the_tasks_are_scored(inputs: EvaluateInputs, tmp_path: Path) -> None:
    none_held_out = dataclasses.replace(inputs, dataset=dataclasses.replace(inputs.dataset, num_eval=0))
    report = run(settings(limit=5), none_held_out, tmp_path)
    assert [score.name for score in report.scores] == ["spell_numbers.acc"]


def test_nothing_to_score_is_an_error_not_an_empty_report(inputs: EvaluateInputs, tmp_path: Path) -> None:
    none_held_out = dataclasses.replace(inputs, dataset=dataclasses.replace(inputs.dataset, num_eval=0))
    with pytest.raises(StageError, match=r"nothing to score: eval\.tasks is empty"):
        run(settings(tasks=[]), none_held_out, tmp_path)


OWN_TASK = """\
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: spell_numbers.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 64}
metric_list: [{metric: exact_match}]
"""


def test_gen_kwargs_and_model_args_reach_lm_eval(
    inputs: EvaluateInputs, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    own, out = tmp_path / "tasks", tmp_path / "out"
    out.mkdir()
    shutil.copytree(TASKS, own)
    (own / "write.yaml").write_text(OWN_TASK)
    changes = {"tasks": ["write"], "include_path": str(own), "limit": 4, "apply_chat_template": False}
    cfg = settings(**changes, gen_kwargs={"max_gen_toks": 3}, model_args={"max_length": 96})
    report = run(cfg, inputs, out)
    assert report.scores[0].name == "write.exact_match"

    [results], [samples] = out.glob("results_*.json"), out.glob("samples_write_*.jsonl")
    assert json.loads(results.read_text())["max_length"] == 96
    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    written = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert len(written) == 4
    assert all(len(tokenizer.encode(text, add_special_tokens=False)) <= 3 for text in written)


def test_model_args_mean_the_same_without_tasks(inputs: EvaluateInputs, tmp_path: Path) -> None:
    report = run(settings(tasks=[], model_args={"max_length": 96, "dtype": "bfloat16"}), inputs, tmp_path)
    assert report.score("holdout.loss") is not None


def test_an_unknown_task_names_the_nearest(inputs: EvaluateInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no lm-eval task arc_easyy") as caught:
        run(settings(tasks=["arc_easyy"]), inputs, tmp_path)
    assert "did you mean arc_easy" in str(caught.value)


def test_cut_weights_fail_with_their_own_error(
    inputs: EvaluateInputs, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    broken, out = tmp_path / "model", tmp_path / "out"
    out.mkdir()
    shutil.copytree(tiny_model.model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StageError, match="evaluating failed: SafetensorError") as caught:
        run(settings(tasks=[]), dataclasses.replace(inputs, model_dir=broken), out)
    assert caught.value.log is not None
    assert "Traceback" in caught.value.log.read_text()


def test_a_changed_task_has_another_version_and_a_missing_folder_is_refused(tmp_path: Path) -> None:
    shutil.copytree(TASKS, tmp_path / "tasks")
    same = tasks_version(settings(include_path=str(tmp_path / "tasks")))
    assert same == tasks_version(settings())
    (tmp_path / "tasks" / "spell_numbers.jsonl").write_text("")
    assert tasks_version(settings(include_path=str(tmp_path / "tasks"))) != same
    with pytest.raises(ConfigError, match=r"eval\.include_path=nowhere"):
        tasks_version(settings(include_path="nowhere"))
