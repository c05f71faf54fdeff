"""One evaluation by two processes: the scores of one, to the last digit, and no answer lost when one is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.artifacts import DatasetArtifact, EvalReport, ModelArtifact
from sft.config.compose import shipped
from sft.config.schema import EvalConfig, HoldoutConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, evaluate
from tests.support.evaluating import inputs_of

pytestmark = pytest.mark.slow


@pytest.fixture
def inputs(tiny_data: DatasetArtifact, tiny_model: ModelArtifact) -> EvaluateInputs:
    return inputs_of(tiny_model, tiny_data)


def run(num_processes: int, inputs: EvaluateInputs, out: Path, progress: Progress | None = None) -> EvalReport:
    out.mkdir(exist_ok=True)
    cfg = EvalConfig(
        tasks=["spell_numbers"],
        include_path=str(shipped("recipes") / "tasks"),
        apply_chat_template=True,
        limit=40,
        holdout=HoldoutConfig(max_new_tokens=6),
        num_processes=num_processes,
    )
    return evaluate(cfg, inputs, out, progress or Progress(quiet=True))


def answers(out: Path) -> list[list[str]]:
    """Digests of what was asked, a list for each process."""
    files = sorted((out / "logs" / "answers").glob("*.jsonl"))
    return [[json.loads(line)[0] for line in file.read_text().splitlines()] for file in files]


@pytest.mark.exhaustive
def test_two_processes_make_the_scores_of_one(inputs: EvaluateInputs, tmp_path: Path) -> None:
    alone, shared = run(1, inputs, tmp_path / "one"), run(2, inputs, tmp_path / "two")
    assert shared.scores == alone.scores
    samples = [(tmp_path / name / "samples_holdout.jsonl").read_bytes() for name in ("one", "two")]
    assert samples[0] == samples[1]
    [everything] = answers(tmp_path / "one")
    first, second = answers(tmp_path / "two")
    assert not {*first} & {*second}
    assert {*first, *second} == {*everything}
    assert min(len(first), len(second)) > len(everything) / 4


@pytest.mark.exhaustive
def test_a_killed_process_fails_the_evaluation_which_then_goes_on(inputs: EvaluateInputs, tmp_path: Path) -> None:
    import os
    import signal

    killed: list[int] = []

    class Killing(Progress):
        def update(self, text: str) -> None:
            requests = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"process-1" in path.read_bytes()]
            if requests and not killed:
                killed.append(int(requests[0].parent.name))
                os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(StageError, match="process-1 was killed by SIGKILL"):
        run(2, inputs, tmp_path / "cut", Killing(quiet=True))
    assert killed
    alone = run(1, inputs, tmp_path / "one")
    assert run(2, inputs, tmp_path / "cut").scores == alone.scores
