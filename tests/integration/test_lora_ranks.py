"""Adapters of every kind on two ranks of FSDP: trained, resumed and merged as in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.lora_ranks import VARIANTS

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("ranks") / "results.json"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = [*torchrun, "-m", "tests.support.lora_ranks", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_one_process_and_of_a_resumed_run_and_merge_into_the_base(
    variant: str, version: int, on_two_ranks: Any
) -> None:
    found = on_two_ranks[f"{variant}-{version}"]
    if (variant, version) == ("experts", 1):
        assert "FSDP1 has a view" in found["refused"]
        return
    assert found["moved"] > 1e-3
    assert found["weights"] < 1e-6
    assert found["resumed"] == 0
    assert found["frozen_in_the_state"] == 0
    assert found["logits"] < 1e-4
    assert found["packed"] == ([14, 14] if variant.startswith("nf4") else [0, 0])  # whole on each rank, never changed
