"""The judge stage as a run calls it: a real child process asks a real server about the answers of two models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact, EvalReport
from sft.config.schema import EvalConfig, JudgeConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.sample_values import read
from sft.stages import judge as judge_stage
from sft.stages.judge import JudgeInputs, judge, judges_of
from tests.servers.judge import MODEL, JudgeServer, always, part, prefers, serving

pytestmark = pytest.mark.slow
KEY = "not-a-real-key-0123456789"
NUM = 8


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_stage, "_FIRST_WAIT_SECONDS", 0.01)


def answered(folder: Path, answers: Sequence[str]) -> EvalReport:
    """Return what an evaluation keeps of one turn in each of some conversations."""
    folder.mkdir()
    rows = [{"sample": place, "turn": 1, "target": "right", "answer": text} for place, text in enumerate(answers)]
    (folder / "samples_holdout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvalReport(root=folder, model_digest="m", scores=())


@pytest.fixture
def inputs(tmp_path: Path) -> JudgeInputs:
    """Eight conversations; the tuned model is right in the first six, the base model in the last two."""
    data = tmp_path / "data"
    data.mkdir()
    turns = [
        [{"role": "user", "content": f"question {place}"}, {"role": "assistant", "content": "right"}]
        for place in range(NUM)
    ]
    (data / "eval.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    counts = {"num_rows": NUM, "num_train": 0, "num_eval": NUM, "num_rejected": 0, "num_duplicates": 0, "num_unused": 0}
    return JudgeInputs(
        dataset=DatasetArtifact(root=data, source="", source_version="", **counts),
        baseline=answered(tmp_path / "base", [f"wrong {place}" for place in range(6)] + ["right"] * 2),
        report=answered(tmp_path / "tuned", ["right"] * 6 + [f"wrong {place}" for place in range(2)]),
    )


def settings(server: JudgeServer, **changes: Any) -> EvalConfig:
    return EvalConfig(judge=JudgeConfig(address=server.address, model="m", **{"max_attempts": 2, **changes}))


def run(cfg: EvalConfig, inputs: JudgeInputs, out: Path) -> Any:
    out.mkdir(exist_ok=True)
    return judge(cfg, inputs, out, Progress(quiet=True))


def judgments(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "judgments.jsonl").read_text().splitlines()]


def test_a_fair_judge_finds_who_is_right_in_both_orders(inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(prefers("right"))) as server:
        report = run(settings(server, prompt="Who is right?"), inputs, tmp_path / "out")
    assert (report.num_wins, report.num_ties, report.num_losses) == (6, 0, 2)
    assert (report.score.name, report.score.value, report.score.num_samples) == ("judge.win_rate", 0.75, NUM)
    assert report.answered_by == (MODEL,)
    assert len(server.requests) == 2 * NUM
    rows = judgments(tmp_path / "out")
    assert [row["value"] for row in rows] == [1.0] * 6 + [0.0] * 2
    assert rows[0]["verdicts"] == ["tuned", "tuned"]
    values = read(tmp_path / "out")["judge.win_rate"]
    assert (values.value, values.units) == (0.75, list(range(NUM)))
    assert rows[0]["judgments"][0]["text"] == "One of them says right.\n[[B]]"
    written = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert written["prompt"] == "Who is right?"
    for _, body in server.requests:
        assert body["messages"][0]["content"].startswith("Who is right?")
        assert part(body["messages"][1]["content"], "conversation").startswith("[user]\nquestion ")
        assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0, 1024, 1234)


def test_a_judge_that_always_prefers_the_first_place_gives_only_ties(inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(always("[[A]]"))) as server:
        report = run(settings(server), inputs, tmp_path / "out")
    assert (report.num_wins, report.num_ties, report.num_losses, report.num_disagreements) == (0, NUM, 0, NUM)
    assert report.score.value == 0.5


def test_nobody_is_asked_about_equal_answers(inputs: JudgeInputs, tmp_path: Path) -> None:
    same = JudgeInputs(dataset=inputs.dataset, baseline=inputs.report, report=inputs.report)
    with serving(JudgeServer(always("[[A]]"))) as server:
        report = run(settings(server), same, tmp_path / "out")
    assert server.requests == []
    assert (report.score.value, report.score.stderr, report.num_equal) == (0.5, 0.0, NUM)


def test_a_smaller_limit_judges_a_part_of_what_a_larger_one_does(inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(prefers("right"))) as server:
        for limit in (3, 5):
            run(settings(server, limit=limit), inputs, tmp_path / str(limit))
    few, more = ({row["sample"] for row in judgments(tmp_path / limit)} for limit in ("3", "5"))
    assert few < more
    assert (len(few), len(more)) == (3, 5)


@pytest.mark.parametrize("trouble", [{"statuses": [429, 500]}, {"bodies": [b"{", b"no"]}])
def test_trouble_that_passes_changes_nothing(trouble: dict[str, Any], inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(prefers("right"), **trouble)) as server:
        report = run(settings(server, concurrency=1, max_attempts=3), inputs, tmp_path / "out")
    assert report.score.value == 0.75
    assert len(server.requests) == 2 * NUM + 2


def test_after_a_server_died_half_way_nothing_is_asked_twice(inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(prefers("right"), die_after=7)) as server:
        with pytest.raises(StageError, match="given up after 2 attempts") as caught:
            run(settings(server), inputs, tmp_path / "out")
        assert "what was answered is kept" in str(caught.value)
        seen = len(server.requests)
        server.die_after = None
        report = run(settings(server), inputs, tmp_path / "out")
    assert report.score.value == 0.75
    assert len(server.requests) - seen == 2 * NUM - 7


def test_judgments_without_a_verdict_end_the_run_and_are_asked_for_again_by_the_next(
    inputs: JudgeInputs, tmp_path: Path
) -> None:
    words = prefers("right")
    with serving(JudgeServer(lambda a, b: words(a, b) if "wrong 1" in a + b else "I can't say.")) as server:
        with pytest.raises(StageError, match="12 of 16 judgments end without a verdict"):
            run(settings(server), inputs, tmp_path / "out")
        server.verdict = words
        report = run(settings(server), inputs, tmp_path / "out")
    assert len(server.requests) == 2 * NUM + 12
    assert (report.num_unparsable, report.score.value) == (0, 0.75)


def test_judgments_of_another_model_behind_the_address_are_asked_for_again(inputs: JudgeInputs, tmp_path: Path) -> None:
    with serving(JudgeServer(always("[[A]]"), die_after=7)) as server:
        with pytest.raises(StageError, match="given up"):
            run(settings(server), inputs, tmp_path / "out")
        seen = len(server.requests)
        server.die_after, server.verdict, server.model = None, prefers("right"), "judge-2"
        said: list[str] = []
        shown = Progress(quiet=True)
        shown.say = said.append  # type: ignore[method-assign]
        report = judge(settings(server), inputs, tmp_path / "out", shown)
    assert len(server.requests) - seen == 2 * NUM
    assert (report.score.value, report.answered_by) == (0.75, ("judge-2",))
    assert "  the judge is judge-2 now: 7 judgments of another are asked for again" in said


def test_a_named_set_has_a_verdict_of_its_own(inputs: JudgeInputs, tmp_path: Path) -> None:
    for folder in (inputs.baseline.root, inputs.report.root):
        (folder / "samples_holdout.jsonl").rename(folder / "samples_support.jsonl")
    with serving(JudgeServer(prefers("right"))) as server:
        report = run(settings(server), replace(inputs, held_out="support"), tmp_path / "out")
    assert (report.score.name, report.score.value) == ("judge.support.win_rate", 0.75)
    assert read(tmp_path / "out").keys() == {"judge.support.win_rate"}
    assert judges_of({"judge": inputs.report, "judge:support": report}) == (report,)


def test_the_key_reaches_the_server_and_no_file(
    inputs: JudgeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    trouble = {"bodies": [f"bad key: {KEY}".encode()] * 40}
    with serving(JudgeServer(prefers("right"))) as server, serving(JudgeServer(always(""), **trouble)) as hostile:
        run(settings(server, key_env="JUDGE_API_KEY"), inputs, tmp_path / "out")
        with pytest.raises(StageError, match="not a chat completion") as caught:
            run(settings(hostile, key_env="JUDGE_API_KEY"), inputs, tmp_path / "failed")
    assert {headers["authorization"] for headers, _ in server.requests} == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"request.json", "judge.json", "error.json", "log.txt"} <= {file.name for file in files}
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_a_missing_key_is_refused_before_anything_is_asked(inputs: JudgeInputs, tmp_path: Path) -> None:
    with (
        serving(JudgeServer(always("[[A]]"))) as server,
        pytest.raises(ConfigError, match=r"eval\.judge\.key_env=NO_SUCH_KEY: is not set in the environment"),
    ):
        run(settings(server, key_env="NO_SUCH_KEY"), inputs, tmp_path / "out")
    assert server.requests == []


def test_answers_to_other_turns_are_not_compared(inputs: JudgeInputs, tmp_path: Path) -> None:
    other = JudgeInputs(
        dataset=inputs.dataset, baseline=answered(tmp_path / "other", ["wrong"] * 5), report=inputs.report
    )
    with (
        serving(JudgeServer(always("[[A]]"))) as server,
        pytest.raises(StageError, match="did not answer the same held-out turns"),
    ):
        run(settings(server), other, tmp_path / "out")
