"""A real training that tells a callback of an installed package, which fails once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sft.errors import StageError
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.callback_package import install
from tests.support.training import STEPS_PER_EPOCH, changed, ranks, train, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.mark.long
def test_a_callback_that_fails_ends_the_run_which_goes_on_from_its_state_and_tells_the_rest(
    train_inputs: TrainInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install(tmp_path / "package", monkeypatch)
    last = STEPS_PER_EPOCH + 1
    cfg = changed(max_steps=last, checkpoint_every_steps=1, async_states=False, callbacks=["recorder"])
    (out := tmp_path / "out").mkdir()
    (package / "fails_at").write_text("2")
    with pytest.raises(StageError, match=r"callback recorder \(acme-sft 1\.2\): on_step failed: ValueError"):
        train(cfg, train_inputs, out, Progress(quiet=True))
    assert wait_for(lambda: not ranks(out), 60)
    (package / "fails_at").unlink()

    checkpoint = train(cfg, train_inputs, out, Progress(quiet=True))
    assert checkpoint.callbacks == ("recorder (acme-sft 1.2)",)
    told = [json.loads(line) for line in (package / "told.jsonl").read_text().splitlines()]
    assert told[:2] == [["step", 1], ["step", 2]]
    again = told[2:]
    steps = [step for what, step, *_ in again if what == "step"]
    assert steps == list(range(steps[0], last + 1))
    assert again[-2:] == [["epoch", 1, last], ["end", last]]
    assert (["epoch", 0, STEPS_PER_EPOCH] in again) == (steps[0] <= STEPS_PER_EPOCH)
