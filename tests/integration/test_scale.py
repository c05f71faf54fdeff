"""What docs/scale.md counts with, against what FSDP really sends."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import ShardingStrategy
from sft.planning.model_shape import shape_of
from tests.support import counted_traffic

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scale() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "scale.py"))


def test_the_page_has_the_tables_of_the_program(scale: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    lacking = [name for name, table in scale["tables"]().items() if table not in page]
    assert lacking == [], "python benchmarks/scale.py prints them"


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("strategy", ["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD"])
def test_fsdp_sends_in_a_minibatch_what_the_page_says(strategy: str, version: str, scale: dict[str, Any]) -> None:
    argv = [sys.executable, "-m", "tests.support.counted_traffic", strategy, "8", version]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=ROOT)
    counted = json.loads(done.stdout.splitlines()[-1])

    utilisation = runpy.run_path(str(ROOT / "benchmarks" / "utilisation.py"))
    of = shape_of({**utilisation["SHAPE"], **counted_traffic.CONFIG})
    assert of is not None
    said = scale["traffic"](of, ShardingStrategy(strategy), 8)
    times = 2 if strategy == "NO_SHARD" else 1  # an all-reduce is a reduce-scatter and a gather
    sent = (counted["gathered"] + times * counted["added"]) * 7 / 8
    assert sent == pytest.approx(said.per_gpu, rel=0.001)
