"""A full state that real ranks of FSDP saved, loaded on as many ranks, on fewer and on more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.state_ranks import KINDS, TAKES

pytestmark = [
    pytest.mark.slow,
    # Warned while torch is imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def on_ranks(num_ranks: int, folder: Path, what: str) -> Any:
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    argv = [*torchrun, "--nproc-per-node", str(num_ranks), "-m", "tests.support.state_ranks", str(folder), what]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def saved(folder: Path) -> Any:
    return on_ranks(2, folder, "save")


@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_weights_and_optimizer_are_the_same_bits_on_any_number_of_ranks(
    num_ranks: int, saved: Any, folder: Path
) -> None:
    loaded = on_ranks(num_ranks, folder, "load")
    assert len(loaded) == len(KINDS) + len(TAKES)
    for kind in loaded:
        before, after = saved[kind.partition(" as ")[0]], loaded[kind]
        for name in ("weights", "optimizer", "learning_rate"):
            assert after[name] == before[name], f"{kind}: {name}"
        assert after["losses"] == pytest.approx(before["losses"], abs=1e-5)
        assert after["drawn"][:2] == before["drawn"][:num_ranks]
        assert len(set(after["drawn"])) == num_ranks, "ranks that draw the same numbers"
        if num_ranks == 2:
            assert after["losses"] == before["losses"] or " as " in kind


def test_what_is_not_trained_is_not_in_a_state(saved: Any, folder: Path) -> None:
    from sft.adapters.instructlab.rank import state_files

    def names(kind: str) -> set[str]:
        names = state_files.read_metadata(folder / kind / "step_3").state_dict_metadata
        return {name for name in names if name.startswith("weights.")}

    assert names("frozen") < names("full")
    assert "weights.head.weight" in names("full")
    assert {name.rpartition(".")[0] for name in names("frozen")} == {
        "weights.blocks.1.0",
        "weights.blocks.1.2",
        "weights",
    }
