"""What real lm-eval's scores are made of: every form of a mean that its own metrics have, and what is no mean."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sft import sample_values
from sft.artifacts import ModelArtifact
from sft.config.compose import shipped
from sft.config.schema import EvalConfig
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, evaluate

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

DATA = """\
dataset_path: json
dataset_kwargs:
  data_files:
    test: spell_numbers.jsonl
test_split: test
"""
TASKS = {
    "text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}} {{choices[0]}}'\n"
    "metric_list:\n"
    + "".join(f"  - metric: {metric}\n" for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
    "write": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{choices[answer]}}'\n"
    "generation_kwargs:\n  until: ['\\n']\n  max_gen_toks: 4\n"
    "metric_list:\n  - metric: exact_match\n  - metric: bleu\n  - metric: chrf\n",
    "corpus": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: answer\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n",
}
GROUP = "group: {name}\ntask:\n  - {first}\n  - {second}\naggregate_metric_list:\n  - metric: acc\n"


def test_values_give_every_score_that_is_a_mean_over_samples(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    own, out = tmp_path / "tasks", tmp_path / "out"
    shutil.copytree(shipped("recipes") / "tasks", own)
    out.mkdir()
    for name, text in TASKS.items():
        (own / f"{name}.yaml").write_text(f"task: {name}\n{DATA}{text}")
    for name in ("first", "second"):  # lm-eval takes a task in one group only
        text = (own / "spell_numbers.yaml").read_text()
        (own / f"{name}.yaml").write_text(text.replace("task: spell_numbers", f"task: {name}"))
    weighted = GROUP.format(name="weighted", first="spell_numbers", second="corpus")
    (own / "weighted.yaml").write_text(weighted + "    weight_by_size: true\n")
    alike = GROUP.format(name="alike", first="first", second="second")
    (own / "alike.yaml").write_text(alike + "    weight_by_size: false\n")
    cfg = EvalConfig(tasks=["weighted", "alike", "text", "write"], include_path=str(own), limit=12)
    inputs = EvaluateInputs(model_dir=tiny_model.model_dir, model_digest="m", trust_remote_code=False)
    report = evaluate(cfg, inputs, out, Progress(quiet=True))
    values = sample_values.read(out)
    scores = {score.name: score.value for score in report.scores}
    without = {"write.bleu", "write.chrf"}
    assert scores.keys() - values.keys() == without
    assert {name: kept.value for name, kept in values.items()} == {
        name: pytest.approx(value) for name, value in scores.items() if name not in without
    }
    assert values["weighted.acc"].units == ["spell_numbers", "corpus"]
    assert values["alike.acc"].units == ["first", "second"]
    assert values["text.word_perplexity"].counts != values["text.byte_perplexity"].counts
    assert {len(kept.units) for name, kept in values.items() if name.partition(".")[0] in ("text", "write")} == {12}
