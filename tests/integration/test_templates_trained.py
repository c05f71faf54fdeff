"""A model that has learned its rows by heart writes them: training, the held-out split and lm-eval start alike.

One case for each way in which a template's generation prompt and its answers meet.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.config.schema import EvalConfig, HoldoutConfig, LauncherConfig, LrScheduler, ModelConfig
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, HeldOutSet, evaluate
from sft.stages.model import ModelInputs, model
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.training_task import TrainInputs
from tests.support.templates import PROMPT
from tests.support.training import changed, train

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(900)]
DIGITS = ("zero", "one", "two", "three", "four", "five")
HEADER = "<|im_start|>assistant\n"
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + LEAD + m.content + '<|im_end|>\n' }}{% endfor %}"
THINK = TURNS.replace("LEAD", "('<think>\n\n</think>\n\n' if loop.last and m.role == 'assistant' else '')")
TEMPLATES = {
    "think block in the answer": THINK + PROMPT,  # Qwen3
    "think block in the prompt if a variable says so": THINK
    + PROMPT.replace(
        "assistant\n", "assistant\n' + ('' if enable_thinking | default(true) else '<think>\n\n</think>\n\n') + '"
    ),
    "channel in the answer": TURNS.replace("LEAD", "(' to=user: ' if m.role == 'assistant' else '')")
    + PROMPT.replace("assistant\n", "assistant"),  # gpt-oss, Muse
    "white space in the prompt alone": TURNS.replace("LEAD", "('<think></think>' if m.role == 'assistant' else '')")
    + PROMPT.replace("assistant\n", "assistant\n<think>\n"),  # Nemotron
    "no generation prompt": TURNS.replace("LEAD", "''"),
}
TASK = """\
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 40}
metric_list: [{metric: exact_match}]
"""


def learned_by_heart(folder: Path, answers: list[str]) -> DatasetArtifact:
    """Rows that are trained and held out at once; one has two turns."""
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": text}]}
        for n, text in enumerate(answers)
    ]
    rows.append({"messages": [*rows[1]["messages"], *rows[2]["messages"]]})
    folder.mkdir()
    for name in ("train.jsonl", "eval.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = dict.fromkeys(("num_rejected", "num_duplicates", "num_unused"), 0)
    size = {"num_rows": 2 * len(rows), "num_train": len(rows), "num_eval": len(rows)}
    return DatasetArtifact(root=folder, source="", source_version="", **size, **counts)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_was_learned_by_heart_is_written(kind: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    answers = [f"{digit} {digit}" for digit in DIGITS]
    data = learned_by_heart(tmp_path / "data", answers)
    quiet, out, tokens = Progress(quiet=True), tmp_path / "model", tmp_path / "tokens"
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATES[kind])
    variables = {"enable_thinking": False} if "variable" in kind else {}
    for folder in (out, tokens):
        folder.mkdir()
    given = ModelConfig(name_or_path=str(tiny_model.model_dir), chat_template=str(file), chat_template_kwargs=variables)
    base = model(given, ModelInputs(dataset=None), out, quiet)
    cfg = changed(
        num_epochs=150,
        effective_batch_size=7,
        learning_rate=1e-2,
        lr_scheduler=LrScheduler.cosine,
        full_state_at_epoch=False,
        launcher=LauncherConfig(procs_per_worker=1),
    )
    tokenized = tokenize(cfg, TokenizeInputs(dataset=data, model=base), tokens, quiet)
    (tmp_path / "trained").mkdir()
    inputs = TrainInputs(model=base, tokenized=tokenized, resources=resolve_resources(cfg))
    tuned = train(cfg, inputs, tmp_path / "trained", quiet)

    own = tmp_path / "tasks"
    own.mkdir()
    (own / "write.yaml").write_text(TASK)
    lead = _lead(kind)
    rows = [{"question": str(n), "answer": f"{lead}{text}"} for n, text in enumerate(answers)]
    (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = (HeldOutSet(name="holdout", dataset=data),)
    scored = EvaluateInputs(model_dir=tuned.model_dir, model_digest="", trust_remote_code=False, held_out=held_out)
    settings = EvalConfig(
        tasks=["write"],
        include_path=str(own),
        apply_chat_template=True,
        holdout=HoldoutConfig(max_new_tokens=40),
    )
    (tmp_path / "scores").mkdir()
    report = evaluate(settings, scored, tmp_path / "scores", quiet)
    scores = {score.name: score.value for score in report.scores}
    assert scores["holdout.token_accuracy"] == 1.0, "it did not learn the rows, so the test shows nothing"
    assert scores["holdout.exact_match"] == 1.0
    assert scores["write.exact_match"] == 1.0
    assert (tuned.model_dir / "chat_template.jinja").read_text() == (out / "chat_template.jinja").read_text()
    assert dataclasses.replace(base, root=out).chat_template_changes


def _lead(kind: str) -> str:
    """What the model writes before its answer, special tokens aside."""
    return {
        "think block in the answer": "<think>\n\n</think>\n\n",
        "channel in the answer": "\n to=user: ",
        "white space in the prompt alone": "</think>",
        "no generation prompt": "assistant\n",
    }.get(kind, "")
