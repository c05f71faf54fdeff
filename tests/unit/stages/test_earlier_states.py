"""Which full state of another try a training takes over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sft.planning.resources import Resources, resolve_resources
from sft.stages.earlier_states import take_over
from tests.support.training import CONFIG

ON_2 = {"from_step": 0, "num_nodes": 1, "num_ranks": 2, "strategy": "FULL_SHARD", "device": "cpu"}


@pytest.fixture
def here() -> Resources:
    return replace(resolve_resources(CONFIG), num_processes=1, device="cpu")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "train-here"
    folder.mkdir()
    return folder


def attempt(folder: Path, step: int, *, state_id: str = "id", num_ranks: int = 2, models: tuple[int, ...] = ()) -> Path:
    """A try that has left the state of a step, and models on the way."""
    state = folder / "work" / "full_state" / f"step_{step}"
    state.mkdir(parents=True)
    (state / "__0_0.distcp").write_text(f"part {step}")
    facts = {
        "format": 2,
        "state_id": state_id,
        "position": {"step": step, "samples_seen": step * 10},
        "stretches": [{**ON_2, "num_ranks": num_ranks}],
    }
    (state / "state.json").write_text(json.dumps(facts))
    for samples in models:
        (folder / "work" / "hf_format" / f"samples_{samples}").mkdir(parents=True)
    return folder


def states(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "work" / "full_state").glob("*"))


def test_the_newest_state_of_tries_on_other_ranks_is_taken_and_stays_with_them(
    tmp_path: Path, out: Path, here: Resources
) -> None:
    older, newer = attempt(tmp_path / "a", 5), attempt(tmp_path / "b", 9, num_ranks=4)
    said = take_over([older, newer], out, "id", here)
    assert said == "  takes over the full state of step 9, saved on 4 ranks"
    assert states(out) == ["step_9"]
    assert (out / "work" / "full_state" / "step_9" / "__0_0.distcp").read_text() == "part 9"
    assert (newer / "work" / "full_state" / "step_9" / "__0_0.distcp").exists()


def test_models_that_were_kept_before_the_state_come_along(tmp_path: Path, out: Path, here: Resources) -> None:
    take_over([attempt(tmp_path / "a", 5, models=(20, 50, 60))], out, "id", here)
    assert sorted(path.name for path in (out / "work" / "hf_format").iterdir()) == ["samples_20", "samples_50"]


def test_another_training_is_not_taken_for_this_one(tmp_path: Path, out: Path, here: Resources) -> None:
    assert take_over([attempt(tmp_path / "a", 5, state_id="other")], out, "id", here) is None
    assert states(out) == []


def test_a_try_on_the_same_ranks_is_another_experiment(tmp_path: Path, out: Path, here: Resources) -> None:
    assert take_over([attempt(tmp_path / "a", 5, num_ranks=1)], out, "id", here) is None


def test_an_own_state_that_is_as_new_stays(tmp_path: Path, out: Path, here: Resources) -> None:
    attempt(out, 5, num_ranks=1)
    assert take_over([attempt(tmp_path / "a", 5)], out, "id", here) is None
    assert take_over([attempt(tmp_path / "b", 7)], out, "id", here)
    assert states(out) == ["step_5", "step_7"]


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "stretches": []}'])
def test_what_is_no_state_is_left_alone(facts: str, tmp_path: Path, out: Path, here: Resources) -> None:
    broken = attempt(tmp_path / "a", 5)
    (broken / "work" / "full_state" / "step_5" / "state.json").write_text(facts)
    assert take_over([broken], out, "id", here) is None
