"""lm-eval's own tasks from a hub, and a model behind a server: real clients, real task definitions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.artifacts import EvalReport, ModelArtifact
from sft.config.schema import EvalBackend, EvalConfig, HoldoutConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, evaluate
from tests.servers import chat, hub, scripted
from tests.servers.hub import AWAY, Repo
from tests.support.command import records, sft_in_process, steps

pytestmark = pytest.mark.slow
NO_HOLDOUT = HoldoutConfig(enabled=False)
QUESTION = {
    "id": "q",
    "question": "Which of these is a number",
    "choices": {"text": ["seven", "a tree", "blue", "to run"], "label": ["A", "B", "C", "D"]},
    "answerKey": "A",
}


def write_arc(folder: Path, num_rows: int = 12) -> Path:
    """ARC-Easy as the hub has it, with questions of our own."""
    (folder / "ARC-Easy").mkdir(parents=True)
    rows = [{**QUESTION, "id": f"q{n}", "question": f"{n}: {QUESTION['question']}?"} for n in range(num_rows)]
    card = ["---", "configs:", "- config_name: ARC-Easy", "  data_files:"]
    for split in ("train", "validation", "test"):
        file = f"ARC-Easy/{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / file)
        card += [f"  - split: {split}", f"    path: {file}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repo]:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set")
    root = tmp_path_factory.mktemp("hub")
    hub.write_gsm8k(Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k", root / "gsm8k")
    return {
        "openai/gsm8k": Repo(root / "gsm8k", "datasets"),
        "allenai/ai2_arc": Repo(write_arc(root / "arc"), "datasets"),
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's clients."""
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def endpoint(repos: dict[str, Repo], home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with hub.serving(repos) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield address


def run(cfg: EvalConfig, model: ModelArtifact, out: Path) -> EvalReport:
    out.mkdir()
    inputs = EvaluateInputs(model_dir=model.model_dir, model_digest="m", trust_remote_code=False)
    return evaluate(cfg, inputs, out, Progress(quiet=True))


@pytest.mark.exhaustive
@pytest.mark.usefixtures("endpoint")
def test_gsm8k_and_arc_easy_are_scored_and_scored_again_from_the_cache_when_the_hub_is_away(
    tiny_model: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = EvalConfig(tasks=["gsm8k", "arc_easy"], limit=3, gen_kwargs={"max_gen_toks": 4}, holdout=NO_HOLDOUT)
    report = run(cfg, tiny_model, tmp_path / "first")
    names = ["gsm8k.exact_match", "gsm8k.exact_match,flexible-extract", "arc_easy.acc", "arc_easy.acc_norm"]
    assert [score.name for score in report.scores] == names
    assert {score.num_samples for score in report.scores} == {3}
    assert report.task_versions == {"gsm8k": "3.0", "arc_easy": "1.0"}
    [samples] = (tmp_path / "first").glob("samples_gsm8k_*.jsonl")
    first = json.loads(samples.read_text().splitlines()[0])
    assert first["doc"]["question"].startswith("Janet")
    assert first["arguments"]["gen_args_0"]["arg_0"].count("Question:") == 6  # five shots, and the question

    monkeypatch.setenv("HF_ENDPOINT", AWAY)
    again = run(cfg, tiny_model, tmp_path / "again")
    assert (again.scores, again.task_data) == (report.scores, report.task_data)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("home")
def test_without_the_hub_and_without_a_cache_the_error_says_what_is_missing(
    tiny_model: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", AWAY)
    with pytest.raises(StageError, match=r"eval\.tasks: can't load arc_easy: .*allenai/ai2_arc") as caught:
        run(EvalConfig(tasks=["arc_easy"], holdout=NO_HOLDOUT), tiny_model, tmp_path / "out")
    assert "check that the hub can be reached" in str(caught.value)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("endpoint")
def test_a_task_whose_data_changed_is_known_by_its_digest(
    repos: dict[str, Repo], tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    cfg = EvalConfig(tasks=["arc_easy"], holdout=NO_HOLDOUT)
    before = run(cfg, tiny_model, tmp_path / "before")
    assert before.other_data(before) == []
    repos["allenai/ai2_arc"].folder = write_arc(tmp_path / "changed", num_rows=13)
    after = run(cfg, tiny_model, tmp_path / "after")
    assert after.other_data(before) == ["arc_easy"]


OWN_TASK = """\
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.exhaustive
def test_a_model_behind_a_server_answers_as_the_same_model_does_here(
    tiny_model: ModelArtifact, home: Path, tmp_path: Path
) -> None:
    own = tmp_path / "tasks"
    own.mkdir()
    (own / "write.yaml").write_text(OWN_TASK)
    rows = [{"question": str(number), "answer": "seven"} for number in (17, 7, 123456)]
    (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual: dict[str, Any] = {"tasks": ["write"], "include_path": str(own), "apply_chat_template": True}
    here = EvalConfig(**usual, holdout=NO_HOLDOUT)
    run(here, tiny_model, tmp_path / "here")
    with chat.serving(tiny_model.model_dir) as address:
        args = {"base_url": address, "model": "tiny"}
        there = EvalConfig(**usual, holdout=NO_HOLDOUT, backend=EvalBackend.local_chat_completions, model_args=args)
        run(there, tiny_model, tmp_path / "there")
    answers = []
    for folder in ("here", "there"):
        [samples] = (tmp_path / folder).glob("samples_write_*.jsonl")
        answers.append([json.loads(line)["resps"] for line in samples.read_text().splitlines()])
    assert answers[0] == answers[1]
    assert all(answer[0][0] for answer in answers[0])


@pytest.mark.long
def test_a_server_is_asked_anew_by_each_run_and_one_that_was_stopped_goes_on(
    tiny_model: ModelArtifact, home: Path, tmp_path: Path
) -> None:
    own = tmp_path / "tasks"
    own.mkdir()
    (own / "write.yaml").write_text(OWN_TASK)
    rows = [{"question": str(number), "answer": "seven"} for number in (17, 7, 123456)]
    (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    says, num_asked, fails_after = "seven", 0, 2

    def answer(_: scripted.Request) -> scripted.Answer:
        nonlocal num_asked
        if num_asked == fails_after:
            return scripted.Answer(500)
        num_asked += 1
        message = {"role": "assistant", "content": says}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return scripted.Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    with scripted.serving(answer) as server:
        server_args = {"base_url": f"{server.address}/v1/chat/completions", "model": "x", "max_retries": 1}
        settings = [
            *("eval.tasks=[write]", "eval.include_path=tasks", "eval.apply_chat_template=true"),
            "eval.backend=local_chat_completions",
            *(f"eval.model_args.{name}={value}" for name, value in server_args.items()),
        ]

        def scored() -> dict[str, Any]:
            nonlocal num_asked
            num_asked = 0
            told.append(sft_in_process("eval", str(tiny_model.model_dir), *settings, cwd=tmp_path))
            [record] = records(tmp_path / "runs")
            return steps(record)["evaluate:base"]

        told: list[Any] = []
        assert scored()["status"] == "failed"
        says, fails_after = "eight", -1
        stopped = scored()
        assert (stopped["status"], num_asked) == ("done", 1)
        known = (
            "2 answers are from before this run was stopped: nobody knows whether the server still has the same model"
        )
        assert stopped["facts"]["notes"] == [known]
        assert f"note: {known}" in told[-1].out
        again = scored()
        assert (again["reused"], num_asked, again["facts"]["notes"]) == (False, 3, [])
        assert [score["value"] for score in again["facts"]["scores"]] == [0.0]
        assert "each run asks anew, since nobody knows which model a server has" in told[-1].out
