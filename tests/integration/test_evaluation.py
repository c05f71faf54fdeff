"""The evaluation stage with real lm-eval in a real child process."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
import weakref
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sft import sample_values
from sft.adapters.evaluation import task_notes, worker
from sft.artifacts import DatasetArtifact, EvalReport, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import Rejected
from sft.config.compose import shipped
from sft.config.schema import EvalBackend, EvalConfig, HeldOutSetConfig, HoldoutConfig, VllmConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, HeldOutSet, evaluate, request_of, tasks_version
from tests.support.evaluating import inputs_of, writing_task

pytestmark = pytest.mark.slow
TASKS = shipped("recipes") / "tasks"


@pytest.fixture
def inputs(tiny_data: DatasetArtifact, tiny_model: ModelArtifact) -> EvaluateInputs:
    return inputs_of(tiny_model, tiny_data)


@pytest.fixture
def no_samples(inputs: EvaluateInputs) -> EvaluateInputs:
    """As of a dataset without a held-out split."""
    [held_out] = inputs.held_out
    nothing = dataclasses.replace(held_out, dataset=dataclasses.replace(held_out.dataset, num_eval=0))
    return dataclasses.replace(inputs, held_out=(nothing,))


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


@pytest.mark.exhaustive
def test_every_number_equals_lm_evals_own_command_line(inputs: EvaluateInputs, tmp_path: Path) -> None:
    """A task of likelihoods and one of texts, with a system turn in the chat template."""
    ours, theirs, own = tmp_path / "ours", tmp_path / "theirs", tmp_path / "tasks"
    ours.mkdir()
    shutil.copytree(TASKS, own)
    (own / "write.yaml").write_text(writing_task(64))
    system = "Spell the digits."
    changes = {"tasks": ["spell_numbers", "write"], "include_path": str(own), "system_instruction": system}
    report = run(settings(**changes), inputs, ours)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--tasks", "spell_numbers,write", "--system_instruction", system]
    command += ["--model_args", f"pretrained={inputs.model_dir}", "--include_path", str(own), "--limit", "40"]
    command += ["--apply_chat_template", "--output_path", str(theirs / "r.json"), "--seed", "1234"]
    subprocess.run(command, cwd=own, check=True, capture_output=True)
    [path] = theirs.glob("r_*.json")
    expected = json.loads(path.read_text())["results"]
    scores = [score for score in report.scores if score.task != "holdout"]
    assert [score.name for score in scores] == ["spell_numbers.acc", "write.exact_match"]
    for score in scores:
        theirs_of = expected[score.task]
        assert score.num_samples == 40
        assert (score.value, score.stderr) == (
            theirs_of[f"{score.metric},none"],
            theirs_of[f"{score.metric}_stderr,none"],
        )

    [results], [samples] = ours.glob("results_*.json"), ours.glob("samples_spell_numbers_*.jsonl")
    assert json.loads(results.read_text())["results"]["spell_numbers"]["acc,none"] == scores[0].value
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 40
    for row in rows:
        assert str(row["task_version"]) == report.task_versions["spell_numbers"]
        assert row["chat_template_sha256"] == report.chat_template_sha256
        assert {"doc", "target", "arguments", "resps", "acc"} <= row.keys()
    kept = sample_values.read(ours)
    assert {score.name: score.value for score in report.scores} == {
        name: pytest.approx(values.value) for name, values in kept.items()
    }


@pytest.mark.long
def test_the_held_out_split_is_scored_and_every_sample_kept(inputs: EvaluateInputs, tmp_path: Path) -> None:
    report = run(settings(tasks=[]), inputs, tmp_path)
    metrics = ["loss", "perplexity", "token_accuracy", "exact_match", "rouge_l", "chrf"]
    assert [score.name for score in report.scores] == [f"holdout.{metric}" for metric in metrics]
    assert {score.num_samples for score in report.scores} == {20}
    samples = [json.loads(line) for line in (tmp_path / "samples_holdout.jsonl").read_text().splitlines()]
    assert [sample["sample"] for sample in samples] == list(range(20))
    mean = sum(s["loss"] for s in samples) / sum(s["num_tokens"] for s in samples)
    assert report.scores[0].value == pytest.approx(mean)
    assert report.scores[1].value == pytest.approx(math.exp(mean))
    assert all(s["prompt"].endswith("<|im_start|>assistant\n") and s["answer"] is not None for s in samples)
    kept = sample_values.read(tmp_path)
    assert {score.name: score.value for score in report.scores} == {
        name: pytest.approx(values.value) for name, values in kept.items()
    }
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["scores"] == [dataclasses.asdict(score) for score in report.scores]
    assert written["model_digest"] == inputs.model_digest
    assert len(written["chat_template_sha256"]) == 64


@pytest.mark.long
def test_a_draw_of_the_held_out_split_leaves_out_what_the_tokenizer_refused_and_says_so(
    inputs: EvaluateInputs, tmp_path: Path
) -> None:
    tokens, out = tmp_path / "tokens", tmp_path / "out"
    tokens.mkdir()
    out.mkdir()
    refused = [Rejected("/data/eval.jsonl", line, "too-long", "", "") for line in range(1, 18)]
    refused.append(Rejected("/data/train.jsonl", 19, "too-long", "", ""))
    (tokens / "rejected.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in refused))
    counts = {"num_rows": 1, "num_samples": 1, "num_tokens": 1, "num_loss_tokens": 1, "longest_tokens": 1}
    tokenized = TokenizedArtifact(root=tokens, **counts, num_eval_rejected=17)
    holdout = HoldoutConfig(generate=False, limit=2)
    held_out = (dataclasses.replace(inputs.held_out[0], tokenized=tokenized),)
    report = run(settings(tasks=[], holdout=holdout), dataclasses.replace(inputs, held_out=held_out), out)
    assert report.holdout_sample == "2 of 3, drawn with eval.seed=1234"
    assert {score.num_samples for score in report.scores} == {2}
    scored = {json.loads(line)["sample"] for line in (out / "samples_holdout.jsonl").read_text().splitlines()}
    assert len(scored) == 2
    assert scored < {17, 18, 19}
    assert list(report.task_data) == ["holdout"]


@pytest.mark.long
def test_without_a_held_out_split_only_the_tasks_are_scored(no_samples: EvaluateInputs, tmp_path: Path) -> None:
    report = run(settings(limit=5), no_samples, tmp_path)
    assert [score.name for score in report.scores] == ["spell_numbers.acc"]


def test_nothing_to_score_is_an_error_not_an_empty_report(no_samples: EvaluateInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing to score: eval\.tasks is empty"):
        run(settings(tasks=[]), no_samples, tmp_path)


@pytest.mark.long
def test_each_named_set_is_scored_on_its_own_as_the_split_is(
    inputs: EvaluateInputs, tiny_data: DatasetArtifact, tmp_path: Path
) -> None:
    """A set of the very rows of the split has its scores; another one has others; each keeps its samples."""
    lines = tiny_data.eval_file.read_bytes().splitlines(keepends=True)
    (tmp_path / "half").mkdir()
    half = dataclasses.replace(tiny_data, root=tmp_path / "half", num_eval=7)
    half.eval_file.write_bytes(b"".join(lines[:7]))
    sets = (*inputs.held_out, HeldOutSet(name="same", dataset=tiny_data), HeldOutSet(name="half", dataset=half))
    out = tmp_path / "out"
    out.mkdir()
    report = run(settings(tasks=[]), dataclasses.replace(inputs, held_out=sets), out)
    scores = {name: [s for s in report.scores if s.task == name] for name in ("holdout", "same", "half")}
    assert [dataclasses.replace(s, task="holdout") for s in scores["same"]] == scores["holdout"]
    assert {s.num_samples for s in scores["half"]} == {7}
    assert report.task_data["same"] == report.task_data["holdout"] != report.task_data["half"]
    samples = {name: (out / f"samples_{name}.jsonl").read_text().splitlines() for name in scores}
    assert samples["same"] == samples["holdout"]
    assert len(samples["half"]) == 7
    losses = [json.loads(line) for line in samples["half"]]
    mean = sum(turn["loss"] for turn in losses) / sum(turn["num_tokens"] for turn in losses)
    assert scores["half"][0].value == pytest.approx(mean)


def test_a_set_that_is_called_like_a_task_or_a_groups_member_is_refused(tmp_path: Path) -> None:
    taken = {"spell_numbers": HeldOutSetConfig(uri="a"), "mmlu_anatomy": HeldOutSetConfig(uri="b")}
    with pytest.raises(ConfigError) as refused:
        tasks_version(settings(tasks=["mmlu"], holdouts={**taken, "support": HeldOutSetConfig(uri="c")}))
    assert [problem.value for problem in refused.value.problems] == ["spell_numbers", "mmlu_anatomy"]


FEWSHOT_TASK = """\
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
fewshot_split: test
fewshot_config: {sampler: first_n}
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.long
def test_gen_kwargs_and_model_args_reach_lm_eval(
    inputs: EvaluateInputs, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    own, out = tmp_path / "tasks", tmp_path / "out"
    out.mkdir()
    shutil.copytree(TASKS, own)
    (own / "write.yaml").write_text(writing_task(64))
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


@pytest.mark.long
@pytest.mark.parametrize(("longest", "is_cut"), [(40, True), (41, False)])
def test_what_lm_eval_only_logs_is_a_note_of_the_report_also_of_answers_that_were_kept(
    longest: int, is_cut: bool, inputs: EvaluateInputs, tmp_path: Path
) -> None:
    """Prompts of 15 tokens with room for 26 more, and of 42 with their answer, of which the last is not read."""
    own, tasks = tmp_path / "tasks", ["write", "spell_numbers"]
    shutil.copytree(TASKS, own)
    written = writing_task(26).replace("{until", "{do_sample: false, until")
    (own / "write.yaml").write_text(f"{written}num_fewshot: 0\n")
    cfg = settings(
        tasks=tasks,
        include_path=str(own),
        apply_chat_template=False,
        num_fewshot=1,
        gen_kwargs={"temperature": 0.9},
        model_args={"max_length": longest},
        limit=12,
    )
    versions = dict.fromkeys(("torch", "transformers", "tokenizers", "lm-eval"), "")
    determined = {**msgspec.to_builtins(cfg), "device": "cpu", "revision": 1, "versions": versions}
    inputs = dataclasses.replace(inputs, held_out=(), answers=tmp_path / "answers", settings=determined)
    where = "(eval.model_args.max_length, less what is written), and their beginning was cut off"
    cuts = [f"12 of 12 prompts of {task} were longer than the model's context {where}" for task in tasks if is_cut]
    ignored = [
        "12 of 12 answers of write are as long as max_gen_toks=26 lets them be, so that they may be cut: see "
        "eval.gen_kwargs.max_gen_toks",
        "eval.num_fewshot=1 does nothing for write, which says itself: 0",
        "eval.gen_kwargs.temperature does nothing for write, which says do_sample: false",
    ]
    for name in ("asked", "kept") if is_cut else ("asked",):
        report = run(cfg, inputs, tmp_path / name)
        assert sorted(report.notes) == sorted([*cuts, *ignored])
        assert json.loads((tmp_path / name / "report.json").read_text())["notes"] == [*report.notes]
        log = (tmp_path / name / "logs" / "log.txt").read_text(errors="replace")
        assert ("tokens from the left" in log) is (is_cut and name == "asked")


def test_only_answers_that_fill_their_room_are_said_to_be_cut(tiny_model: ModelArtifact) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    model = SimpleNamespace(tok_encode=tokenizer.encode, max_gen_toks=256, max_length=512)
    texts = [tokenizer.decode(tokenizer.encode("one two three four " * 20)[:length]) for length in (10, 39, 40)]
    asked = ("1", {"until": ["."], "max_gen_toks": 40})
    rows = [{"doc_id": place, "arguments": [asked], "resps": [[text]]} for place, text in enumerate(texts)]
    rows += rows  # as lm-eval logs them for two filters
    rows.append({"doc_id": 3, "arguments": [("1", "one")], "resps": [[(-1.0, True)]]})
    request = {"backend": "hf", "num_fewshot": None, "gen_kwargs": {}}
    [note] = task_notes.notes(request, model, {"n-shot": {}}, {"write": rows})
    assert note.startswith("2 of 3 answers of write are as long as max_gen_toks=40 lets them be")


@pytest.mark.long
@pytest.mark.parametrize("multiturn", [True, False])
def test_system_turn_and_examples_reach_lm_eval_through_the_chat_template(
    multiturn: bool, inputs: EvaluateInputs, tmp_path: Path
) -> None:
    """The prompt that lm-eval logs is the conversation that a reader would write, rendered by transformers."""
    from transformers import AutoTokenizer

    own, out = tmp_path / "tasks", tmp_path / "out"
    out.mkdir()
    own.mkdir()
    (own / "rows.jsonl").write_text("".join(json.dumps({"q": f"ask {n}", "a": f"say {n}"}) + "\n" for n in (1, 2)))
    (own / "write.yaml").write_text(FEWSHOT_TASK)
    changes = {"tasks": ["write"], "include_path": str(own), "num_fewshot": 1, "system_instruction": "Be brief."}
    run(settings(**changes, fewshot_as_multiturn=multiturn), dataclasses.replace(inputs, held_out=()), out)
    [samples] = out.glob("samples_write_*.jsonl")
    prompts = [json.loads(line)["arguments"]["gen_args_0"]["arg_0"] for line in samples.read_text().splitlines()]
    system = {"role": "system", "content": "Be brief."}
    example = [{"role": "user", "content": "ask 1"}, {"role": "assistant", "content": "say 1"}]
    asked = {"role": "user", "content": "ask 2"}
    joined = {"role": "user", "content": "ask 1 say 1\n\nask 2"}
    messages = [system, *example, asked] if multiturn else [system, joined]
    tokenizer = AutoTokenizer.from_pretrained(inputs.model_dir)
    assert prompts[1] == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.long
def test_model_args_mean_the_same_without_tasks(inputs: EvaluateInputs, tmp_path: Path) -> None:
    report = run(settings(tasks=[], model_args={"max_length": 96, "dtype": "bfloat16"}), inputs, tmp_path)
    assert report.score("holdout.loss") is not None


def test_a_model_that_is_divided_over_devices_is_the_same_model(inputs: EvaluateInputs, tmp_path: Path) -> None:
    python = VllmConfig(python="python", tensor_parallel_size=2)
    divided = request_of(settings(backend=EvalBackend.vllm, vllm=python), inputs, tmp_path, tmp_path / "p")
    whole = request_of(settings(), inputs, tmp_path, tmp_path / "p")
    assert (divided["divides_model"], whole["divides_model"]) == (True, False)
    import torch

    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = [worker._load(request)(input_ids=ids).logits for request in (divided, whole)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tasks": ["arc_easyy"]}, "eval.tasks=arc_easyy: there is no such lm-eval task; did you mean arc_easy"),
        ({"gates": {"arc_easyy.acc": "> 0"}}, "no task and no held-out set has this name; did you mean arc_easy"),
        (
            {"gates": {"holdot.loss": "> 0"}},
            "eval.gates=holdot: no task and no held-out set has this name; did you mean holdout?",
        ),
    ],
)
def test_an_unknown_task_is_refused_at_plan_time_and_the_nearest_is_named(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        tasks_version(settings(**changes))


@pytest.mark.exhaustive
def test_a_killed_evaluation_asks_nothing_twice(inputs: EvaluateInputs, tmp_path: Path) -> None:
    """The child is killed in the middle of the tasks' requests; the same call goes on, and the numbers are the same."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    cfg = settings(limit=200, batch_size="1", holdout=HoldoutConfig())
    inputs = dataclasses.replace(inputs, held_out=())
    expected = run(cfg, inputs, whole)
    seen: list[int] = []

    class Watching(Progress):
        def update(self, text: str) -> None:
            seen.extend(int(number) for number in re.findall(r"requests (\d+)/800", text))

    class Killing(Watching):
        def update(self, text: str) -> None:
            super().update(text)
            if seen and seen[-1] > 100:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(cfg, inputs, cut, Killing(quiet=True))
    answered, seen[:] = seen[-1], []
    [file] = (cut / "logs" / "answers").iterdir()
    file.write_bytes(file.read_bytes() + b'{"cut o')
    assert evaluate(cfg, inputs, cut, Watching(quiet=True)).scores == expected.scores
    assert seen[0] >= answered


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("batch_size", [pytest.param("auto", marks=pytest.mark.exhaustive), 16])
def test_running_out_of_memory_halves_the_batch_and_asks_nothing_twice(
    batch_size: str | int, inputs: EvaluateInputs, tmp_path: Path
) -> None:
    import torch

    from sft.adapters.evaluation import lm_eval, tasks
    from sft.adapters.evaluation.answer_cache import AnswerCache
    from sft.adapters.evaluation.progress_file import ProgressFile

    request = request_of(settings(batch_size="16"), inputs, tmp_path, tmp_path / "progress.json")
    request["batch_size"] = batch_size
    manager, model = tasks.task_manager(["spell_numbers"], str(TASKS)), lm_eval.load_hf(request)
    forward, rows = model._model_call, []
    failed: list[weakref.ref[Any]] = []

    def small_memory(batch: Any, **more: Any) -> Any:
        assert [tensor for tensor in failed if tensor() is not None] == []
        if len(batch) > 3 and len(rows) > 20:
            logits = forward(batch, **more)
            failed.extend(weakref.ref(tensor) for tensor in (batch, logits))
            raise torch.OutOfMemoryError("no memory")
        rows.extend(batch)
        return forward(batch, **more)

    model._model_call = small_memory
    meter = ProgressFile(tmp_path / "progress.json")
    with closing(AnswerCache(tmp_path / "answers")) as answers:
        result = lm_eval.run(request, manager, model, tmp_path, meter, "t", answers)
    halved = [note.rpartition("with ")[2] for note in meter.notes]
    assert halved == ["8 requests at once", "4 requests at once", "2 requests at once"]
    assert len(rows) <= 160 + 16  # what a batch that failed had answered before is known
    (tmp_path / "whole").mkdir()
    assert result["scores"][0] == dataclasses.asdict(run(settings(), inputs, tmp_path / "whole").scores[0])


def with_half(of: str, tiny_model: ModelArtifact, tmp_path: Path) -> Path:
    """The model, with half of one of its files."""
    broken: Path = shutil.copytree(tiny_model.model_dir, tmp_path / "model")
    whole = (broken / of).read_bytes()
    (broken / of).write_bytes(whole[: len(whole) // 2])
    return broken


def test_cut_weights_are_named_before_a_process_starts(
    inputs: EvaluateInputs, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    broken, out = with_half("model.safetensors", tiny_model, tmp_path), tmp_path / "out"
    out.mkdir()
    said = rf"^{re.escape(str(broken / 'model.safetensors'))}: not a whole safetensors file"
    with pytest.raises(StageError, match=said) as caught:
        run(settings(tasks=[]), dataclasses.replace(inputs, model_dir=broken), out)
    assert caught.value.log is None
    assert list(out.iterdir()) == []


def test_what_only_the_process_can_know_fails_with_its_own_error(
    inputs: EvaluateInputs, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    broken, out = with_half("tokenizer.json", tiny_model, tmp_path), tmp_path / "out"
    out.mkdir()
    with pytest.raises(StageError, match="evaluating failed: JSONDecodeError") as caught:
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
