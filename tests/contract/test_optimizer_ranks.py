"""Each optimizer on two real ranks of FSDP2: the numbers of one that is not sharded, and the same bits after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sft.config.schema import Optimizer
from tests.support.optimizer_ranks import OPTIMIZERS

pytestmark = [
    pytest.mark.slow,
    # Warned while torch is imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
APART = {"adamw": 1e-3, "adafactor": 1e-3, "lion": 1e-3, "muon": 0.5}
"""How far weights may be apart, as a part of how far they moved; Muon's iterations are in bf16."""
STATE_BYTES = {"adamw": 8, "adafactor": 0.25, "lion": 4, "muon": 5.2}
"""Bytes of state for each weight of this tiny model, as `planning.trained_parameters` has them for large ones."""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [*torchrun, "-m", "tests.support.optimizer_ranks", str(tmp_path_factory.mktemp("states"))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sharding_changes_no_number_and_a_stop_no_bit(name: str, facts: dict[str, dict[str, Any]]) -> None:
    found = facts[name]
    assert found["moved"] > 1e-3
    assert found["difference"] < APART[name] * found["moved"]
    assert found["state_bytes"] == pytest.approx(STATE_BYTES[name], rel=0.05)
    assert found["same"]


def test_every_optimizer_is_looked_at_but_the_one_that_is_refused() -> None:
    assert {each.value for each in Optimizer} == {*OPTIMIZERS, "adamw_8bit"}
