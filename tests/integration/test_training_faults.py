"""A training that is killed, stopped, stuck or out of space: nothing survives it, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact
from sft.config.schema import LauncherConfig
from sft.errors import Preempted, StageError
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.report.learning import read_resumes
from sft.stages.earlier_states import take_over
from sft.stages.training_task import TrainInputs
from tests.support.training import (
    CONFIG,
    EPOCHS,
    STEPS_PER_EPOCH,
    changed,
    curve,
    metrics,
    ranks,
    running,
    steps_done,
    train,
    wait_for,
    weights,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
EVERY_STEP = changed(checkpoint_every_steps=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.long
def test_a_killed_parent_takes_all_ranks_along_and_the_run_continues_to_the_same_weights(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    states = out / "work" / "full_state"
    with running(CONFIG, train_inputs, out) as parent:
        assert wait_for(lambda: any(states.glob("step_*")) or parent.poll() is not None, 120)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 5)
    newest = max(int(state.name.removeprefix("step_")) for state in states.glob("step_*"))
    cut_short = states / f".step_{newest + STEPS_PER_EPOCH}"
    cut_short.mkdir(exist_ok=True)
    (cut_short / "optimizer.bin").write_bytes(b"the kill came while this was written")
    said: list[str] = []
    continued = train(CONFIG, train_inputs, out, listening(said))
    assert f"  resumes after step {newest}, in epoch {newest // STEPS_PER_EPOCH + 1}" in said
    assert read_resumes(out / "logs") == [newest]
    assert weights(continued) == weights(trained)
    assert curve(out) == curve(trained.root)


@pytest.mark.exhaustive
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_from_its_last_step(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    middle = STEPS_PER_EPOCH + 3
    with running(EVERY_STEP, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= middle or parent.poll() is not None, 120)
        for rank in ranks(out):
            with contextlib.suppress(ProcessLookupError):  # the first one's end is the others'
                os.kill(rank, signal.SIGKILL)
        assert parent.wait(60) != 0
    said: list[str] = []
    assert weights(train(EVERY_STEP, train_inputs, out, listening(said))) == weights(trained)
    went_on = next(int(line.split()[3].rstrip(",")) for line in said if "resumes after step" in line)
    assert went_on >= middle - 2  # the state of the step before may not have been whole yet
    assert curve(out) == curve(trained.root)


@pytest.mark.exhaustive
def test_training_goes_on_while_a_state_is_written_and_a_kill_leaves_the_one_before_it(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    slow = "import os, time\nsync = os.fsync\nos.fsync = lambda file: (time.sleep(2), sync(file))[1]\n"
    (out.parent / "sitecustomize.py").write_text(slow, encoding="utf-8")
    cfg = changed(env={"PYTHONPATH": f"{out.parent}:{Path.cwd()}"})
    states, second = out / "work" / "full_state", 2 * STEPS_PER_EPOCH
    with running(cfg, train_inputs, out) as parent:
        is_under_way = lambda: (states / f".step_{second}").exists() and steps_done(out) > second + 1  # noqa: E731
        assert wait_for(lambda: is_under_way() or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 5)
    assert sorted(state.name for state in states.iterdir()) == [f".step_{second}", f"step_{STEPS_PER_EPOCH}"]
    said: list[str] = []
    continued = train(CONFIG, train_inputs, out, listening(said))
    assert f"  resumes after step {STEPS_PER_EPOCH}, in epoch 2" in said
    assert weights(continued) == weights(trained)
    assert curve(out) == curve(trained.root)


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_two_ranks_that_were_killed_continue_on_one_and_on_four(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    inputs = replace(train_inputs, state_id="this training")
    with running(EVERY_STEP, inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= STEPS_PER_EPOCH + 3 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 5)
    for num_ranks in (1, 4):
        cfg = changed(launcher=LauncherConfig(procs_per_worker=num_ranks))
        elsewhere = out.parent / f"on_{num_ranks}"
        elsewhere.mkdir()
        taken = take_over([out], elsewhere, inputs.state_id, resolve_resources(cfg))
        assert taken is not None
        step = int(taken.split()[7].rstrip(","))
        assert taken == f"  takes over the full state of step {step}, saved on 2 ranks"
        continued = train(cfg, inputs, elsewhere, Progress(quiet=True))
        assert [(part["from_step"], part["num_ranks"]) for part in continued.stretches] == [(0, 2), (step, num_ranks)]
        before, after = metrics(trained.root), metrics(elsewhere)
        assert [row["step"] for row in after] == [row["step"] for row in before]
        for name in ("samples_seen", "num_tokens", "num_loss_tokens", "learning_rate"):  # the same samples in each step
            assert [row[name] for row in after] == [row[name] for row in before], name
        assert [row["loss"] for row in after[:step]] == [row["loss"] for row in before[:step]]
        assert [row["loss"] for row in after[step:]] == pytest.approx([row["loss"] for row in before[step:]], abs=1e-5)


@pytest.mark.exhaustive
def test_a_preempted_run_saves_in_the_middle_of_an_epoch_and_says_so(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    with running(CONFIG, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 2, 120)
        parent.send_signal(signal.SIGUSR1)
        text, _ = parent.communicate(timeout=60)
    assert parent.returncode == Preempted.exit_code
    step = steps_done(out)
    assert f"SIGUSR1: stopped after step {step}, its full state is saved; the same command continues" in text
    assert not ranks(out)
    assert step < EPOCHS * STEPS_PER_EPOCH
    continued = train(CONFIG, train_inputs, out, Progress(quiet=True))
    assert weights(continued) == weights(trained)
    assert curve(out) == curve(trained.root)


def test_an_interrupted_parent_takes_all_ranks_down_at_once(train_inputs: TrainInputs, out: Path) -> None:
    with running(CONFIG, train_inputs, out) as parent:
        assert wait_for(lambda: len(ranks(out)) == 2, 60)
        parent.send_signal(signal.SIGINT)
        assert parent.wait(30) != 0
        assert wait_for(lambda: not ranks(out), 5)


@pytest.mark.exhaustive
def test_a_killed_rank_is_named(train_inputs: TrainInputs, out: Path) -> None:
    with pytest.raises(StageError, match=r"rank \d was killed by SIGKILL") as caught:
        train(CONFIG, train_inputs, out, killing(out, times=1))
    assert "training.max_tokens_per_gpu" in str(caught.value.fix)


@pytest.mark.exhaustive
def test_a_lost_rank_is_made_up_for_as_often_as_the_recipe_says(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    said: list[str] = []
    progress = killing(out, times=1)
    progress.say = said.append  # type: ignore[method-assign] # to read what a person would
    checkpoint = train(changed(max_restarts=1, checkpoint_every_steps=1), train_inputs, out, progress)
    assert any("restart 1 of 1" in line for line in said)
    assert weights(checkpoint) == weights(trained)


IN_A_RANK = """
import importlib.abc, os, sys, time
def act_here():
    {act}
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "sft.adapters.instructlab.rank.lora" and os.environ.get("RANK") in {ranks}:
            act_here()
sys.meta_path.insert(0, Finder())
"""


def acting(folder: Path, act: str, *ranks: str) -> dict[str, str]:
    """Environment in which ranks do something unforeseen before they train."""
    (folder / "sitecustomize.py").write_text(IN_A_RANK.format(act=act, ranks=ranks), encoding="utf-8")
    return {"PYTHONPATH": f"{folder}:{Path.cwd()}"}


@pytest.mark.long
def test_a_rank_that_hangs_is_noticed_and_its_stack_is_in_the_message(train_inputs: TrainInputs, out: Path) -> None:
    cfg = changed(stall_timeout_seconds=8, env=acting(out.parent, "time.sleep(600)", "1"))
    with pytest.raises(StageError, match="training hangs: nothing was written for") as caught:
        train(cfg, train_inputs, out, Progress(quiet=True))
    rank_0, _, rank_1 = caught.value.message.partition("rank 1:")
    assert "in act_here" in rank_1
    assert "rank 0:" in rank_0
    assert "in act_here" not in rank_0
    assert wait_for(lambda: not ranks(out), 5)


@pytest.mark.long
def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_weights(
    train_inputs: TrainInputs, out: Path
) -> None:
    with pytest.raises(StageError, match=r"the (loss|gradient norm) is (nan|inf) at step \d+ \(epoch \d\)") as caught:
        train(changed(learning_rate=1e30, max_grad_norm=1e30), train_inputs, out, Progress(quiet=True))
    assert "training.learning_rate" in str(caught.value.fix)


@pytest.mark.exhaustive
def test_a_full_disk_at_a_state_leaves_the_one_before_it(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({100_000}, {100_000}))\n"
    (out.parent / "sitecustomize.py").write_text(limit, encoding="utf-8")
    cfg = changed(env={"PYTHONPATH": f"{out.parent}:{Path.cwd()}"})
    with pytest.raises(StageError, match=f"the full state of step {STEPS_PER_EPOCH} can't be written") as caught:
        train(cfg, train_inputs, out, Progress(quiet=True))
    assert "free space" in str(caught.value.fix)
    assert not list((out / "work" / "full_state").glob("step_*"))
    assert weights(train(CONFIG, train_inputs, out, Progress(quiet=True))) == weights(trained)


@pytest.mark.exhaustive
def test_a_row_that_the_library_leaves_out_fails_the_run(train_inputs: TrainInputs, out: Path) -> None:
    root = out.parent / "tokens"
    root.mkdir()
    rows = train_inputs.tokenized.data_file.read_text(encoding="utf-8").splitlines()
    longer = json.loads(rows[0])
    while len(longer["input_ids"]) <= CONFIG.max_tokens_per_gpu:
        longer = {"input_ids": longer["input_ids"] * 2, "labels": longer["labels"] * 2}
    rows[0] = json.dumps({**longer, "len": len(longer["input_ids"])})
    (root / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    inputs = replace(train_inputs, tokenized=replace(train_inputs.tokenized, root=root))
    with pytest.raises(StageError, match="epoch 0 saw 199 samples, but the training takes 200 of it"):
        train(CONFIG, inputs, out, Progress(quiet=True))


@pytest.mark.exhaustive
def test_ranks_that_end_without_training_are_no_success(train_inputs: TrainInputs, out: Path) -> None:
    with pytest.raises(StageError, match="training ended without a model"):
        train(changed(env=acting(out.parent, "os._exit(0)", "0", "1")), train_inputs, out, Progress(quiet=True))


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_killed_at_random_moments_the_weights_are_the_same(
    train_inputs: TrainInputs, trained: CheckpointArtifact, out: Path
) -> None:
    moments = random.Random(0)
    for _ in range(10):
        with running(EVERY_STEP, train_inputs, out) as parent:
            seconds = moments.uniform(4, 12)
            wait_for(lambda: parent.poll() is not None, seconds)
            victims = [parent.pid, *ranks(out)]
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(moments.choice(victims), signal.SIGKILL)
            parent.wait(60)
        assert wait_for(lambda: not ranks(out), 5)
        if (out / "model").exists():
            break
    assert weights(train(EVERY_STEP, train_inputs, out, Progress(quiet=True))) == weights(trained)
    assert curve(out) == curve(trained.root)


def listening(said: list[str]) -> Progress:
    progress = Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign] # to read what a person would
    return progress


def killing(out: Path, *, times: int) -> Progress:
    """Kills a rank once steps are made."""
    left = [times]

    def kill_one(_text: str) -> None:
        if left[0] and (alive := ranks(out)):
            left[0] -= 1
            os.kill(min(alive), signal.SIGKILL)

    progress: Any = Progress(quiet=True)
    progress.update = kill_one
    return progress  # type: ignore[no-any-return]
