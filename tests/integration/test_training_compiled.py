"""``training.compile: regional``: the same losses, states and models as without, and nothing is compiled twice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact
from sft.config.schema import Compile, GradientCheckpointing, LauncherConfig, LoraConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import changed, metrics, ranks, running, steps_done, train, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FULL: dict[str, Any] = {"num_epochs": 1, "validation_split": 0.2, "validation_frequency": 2}
ONE_RANK_LORA: dict[str, Any] = {
    "num_epochs": 1,
    "lora": LoraConfig(rank=4, alpha=8, dropout=0.0),
    "gradient_checkpointing": GradientCheckpointing.selective,
    "launcher": LauncherConfig(procs_per_worker=1),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiling takes most of the time of these tests: they share what has been compiled."""
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


def made(out: Path, inputs: TrainInputs, said: list[str] | None = None, **settings: Any) -> CheckpointArtifact:
    out.mkdir(exist_ok=True)
    progress = Progress(quiet=True)
    if said is not None:
        progress.say = said.append  # type: ignore[method-assign] # to read what a person would
    return train(changed(**settings), inputs, out, progress)


def values(root: Path, name: str) -> list[float]:
    return [row[name] for row in metrics(root) if name in row]


@pytest.mark.parametrize("settings", [FULL, ONE_RANK_LORA])
@pytest.mark.exhaustive
def test_compiled_layers_give_the_losses_of_those_that_are_not(
    settings: dict[str, Any], train_inputs: TrainInputs, tmp_path: Path
) -> None:
    said: list[str] = []
    plain = made(tmp_path / "plain", train_inputs, **settings)
    compiled = made(tmp_path / "compiled", train_inputs, said, compile=Compile.regional, **settings)
    for name in ("loss", "validation_loss", "gradient_norm"):
        expected = values(plain.root, name)
        assert values(compiled.root, name) == pytest.approx(expected, abs=1e-5 if "loss" in name else 1e-4), name
    assert (values(plain.root, "validation_loss") != []) == ("validation_split" in settings)
    seconds = [row.get("compile_seconds", 0) for row in metrics(compiled.root)]
    assert seconds[0] > 1
    assert not any(seconds[2:]), "minibatches of another size are compiled anew"
    report = json.loads((compiled.root / "logs" / "compiled.json").read_text())
    assert report["breaks"] == {}
    assert 4 <= report["num_graphs"] <= 16
    assert [line for line in said if "layers are compiled" in line] != []
    assert compiled.stretches[0]["compiles_layers"]
    assert not values(plain.root, "compile_seconds")


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", list(Compile))
def test_a_state_saved_with_compiled_layers_continues_without_and_the_reverse(
    first: Compile, train_inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    then = Compile.none if first is Compile.regional else Compile.regional
    with running(changed(checkpoint_every_steps=1, compile=first), train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 9 or parent.poll() is not None, 600)
        for rank in ranks(out):
            with contextlib.suppress(ProcessLookupError):  # the first one's end is the others'
                os.kill(rank, signal.SIGKILL)
        assert parent.wait(60) != 0
    said: list[str] = []
    made(out, train_inputs, said, checkpoint_every_steps=1, compile=then)
    resumed = re.search(r"resumes after step (\d+)", "\n".join(said))
    assert resumed, said
    assert values(out, "loss") == pytest.approx(values(trained.root, "loss"), abs=1e-5)
    rows = metrics(out)
    assert ("compile_seconds" in rows[0]) == (first is Compile.regional)
    assert any("compile_seconds" in row for row in rows[int(resumed[1]) :]) == (then is Compile.regional)


@pytest.mark.long
def test_a_machine_that_turns_out_not_to_compile_ends_the_run(
    train_inputs: TrainInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    with pytest.raises(StageError, match="can't be compiled") as caught:
        made(tmp_path / "out", train_inputs, compile=Compile.regional, launcher=LauncherConfig(procs_per_worker=1))
    assert "training.compile=none" in str(caught.value.fix)
