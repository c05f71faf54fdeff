"""Full states in storage: brought to a real S3 server and to a folder, and back to a machine that has none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact
from sft.config.schema import ShardingStrategy
from sft.planning.resources import Resources, resolve_resources
from sft.progress import Progress
from sft.stages.state_mirror import StateMirror
from sft.stages.training_task import TrainInputs
from tests.servers import rclone
from tests.support.training import CONFIG, changed, curve, ranks, running, steps_done, train, wait_for, weights

# botocore and aiobotocore leave what closes itself to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ON_2 = {"from_step": 0, "num_nodes": 1, "num_ranks": 2, "strategy": "FULL_SHARD", "device": "cpu"}
HERE = replace(resolve_resources(CONFIG), num_processes=2, device="cpu", strategy=ShardingStrategy.FULL_SHARD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder of the bucket, and the server's endpoint."""
    root = tmp_path_factory.mktemp("s3")
    (root / "states").mkdir()
    with rclone.s3(root, written=True) as endpoint:
        yield root / "states", endpoint


@pytest.fixture
def s3(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Folder and address of a prefix in the bucket."""
    folder, endpoint = server
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    return folder / name, f"s3://states/{name}"


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "volume", f"file://{tmp_path / 'volume'}"


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Where the copies lie, and the address under which they are reached."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


class Machine:
    """A staging folder, a mirror, and what it said."""

    def __init__(self, out: Path, uri: str, *, state_id: str = "id", key: str = "key") -> None:
        self.out, self.said = out, list[str]()
        out.mkdir(exist_ok=True)
        self.mirror = StateMirror(uri, state_id, key, out, self.said.append)

    def save(self, step: int, *, state_id: str = "id", size: int = 100) -> None:
        """What the ranks do: a new state appears, and the one before it goes."""
        states = self.out / "work" / "full_state"
        older = list(states.glob("step_*"))
        state = states / f".step_{step}"
        state.mkdir(parents=True)
        files = {"__0_0.distcp": os.urandom(size), ".metadata": b"m", "metrics.jsonl": b'{"step": 1}\n'}
        for name, content in files.items():
            (state / name).write_bytes(content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        position = {"step": step, "epoch": 0, "steps_in_epoch": step, "samples_seen": step * 10}
        facts = {"format": 2, "state_id": state_id, "position": position, "stretches": [ON_2], "files": digests}
        (state / "state.json").write_text(json.dumps(facts))
        state.rename(states / f"step_{step}")
        for path in older:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()

    def states(self) -> dict[str, bytes]:
        root = self.out / "work" / "full_state"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def mirror_now(self) -> None:
        with self.mirror.at_work():
            pass

    def fetch(self, resources: Resources = HERE) -> str:
        self.mirror.fetch(resources, keeps_models=False)
        return "\n".join(self.said)


def test_a_fresh_machine_gets_the_newest_state_byte_for_byte(place: tuple[Path, str], tmp_path: Path) -> None:
    lying, uri = place
    first = Machine(tmp_path / "first", uri)
    with first.mirror.at_work():
        first.save(3)
        assert wait_for((lying / "id" / "key" / "step_3" / "state.json").exists, 20)
        first.save(5, size=12 << 20)  # S3 takes it in parts
    assert sorted(path.name for path in (lying / "id" / "key").iterdir()) == ["step_5"]
    assert not (first.out / "work" / "mirror").exists()
    fresh = Machine(tmp_path / "fresh", uri, key="other ranks")
    said = fresh.fetch(replace(HERE, num_processes=1))
    assert said == f"  takes the full state of step 5 from {uri}, saved on 2 ranks"
    assert fresh.states() == first.states()
    fresh.save(7)
    fresh.mirror_now()
    fresh.mirror.remove()
    assert fresh.said[-1] == f"  the full states in {uri} are removed: the training has ended"
    assert not [path for path in lying.rglob("*") if path.is_file()]
    assert first.mirror.failures == fresh.mirror.failures == []


def test_an_own_state_stays(folder: tuple[Path, str], tmp_path: Path) -> None:
    first, second = Machine(tmp_path / "first", folder[1]), Machine(tmp_path / "second", folder[1])
    first.save(5)
    first.mirror_now()
    second.save(3)
    assert second.fetch() == ""
    assert {name.partition("/")[0] for name in second.states()} == {"step_3"}


def test_another_trainings_states_are_not_used_and_that_is_said(folder: tuple[Path, str], tmp_path: Path) -> None:
    other = Machine(tmp_path / "other", folder[1], state_id="another")
    other.save(5, state_id="another")
    other.mirror_now()
    fresh = Machine(tmp_path / "fresh", folder[1])
    expected = "has no full state that this training can use; those of 1 other trainings lie there"
    assert fresh.fetch() == f"  {folder[1]} {expected}"
    assert fresh.states() == {}


def test_the_same_ranks_with_another_strategy_are_another_experiment(folder: tuple[Path, str], tmp_path: Path) -> None:
    first = Machine(tmp_path / "first", folder[1])
    first.save(5)
    first.mirror_now()
    fresh = Machine(tmp_path / "fresh", folder[1])
    said = fresh.fetch(replace(HERE, strategy=ShardingStrategy.NO_SHARD))
    assert "saved on the same ranks with FULL_SHARD, another experiment" in said
    assert fresh.states() == {}


def flip(state: Path) -> None:
    (state / "__0_0.distcp").write_bytes(b"other bytes")


def lose(state: Path) -> None:
    (state / ".metadata").unlink()


def cut(state: Path) -> None:
    (state / "state.json").write_text((state / "state.json").read_text()[:20])


def steal(state: Path) -> None:
    facts = json.loads((state / "state.json").read_text())
    facts["files"]["../../../../stolen"] = "0" * 64
    (state / "state.json").write_text(json.dumps(facts))


def rename(state: Path) -> None:
    facts = json.loads((state / "state.json").read_text())
    facts["position"]["step"] = 4
    (state / "state.json").write_text(json.dumps(facts))


def adopt(state: Path) -> None:
    facts = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**facts, "state_id": "another"}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "__0_0.distcp has not the bytes that were saved"),
        (lose, "no such file"),
        (cut, "state.json can't be read"),
        (steal, "state.json says what no state says"),
        (rename, "state.json says what no state says"),
        (adopt, "it is of another training"),
    ],
)
def test_a_damaged_or_forged_copy_is_passed_over(
    harm: Any, said: str, folder: tuple[Path, str], tmp_path: Path
) -> None:
    lying, uri = folder
    for key, step in {"older": 5, "newer": 9}.items():
        machine = Machine(tmp_path / key, uri, key=key)
        machine.save(step)
        machine.mirror_now()
    harm(lying / "id" / "newer" / "step_9")
    fresh = Machine(tmp_path / "fresh", uri)
    text = fresh.fetch()
    assert f"{uri}/id/newer/step_9 is not used: " in text
    assert said in text
    assert "takes the full state of step 5" in text
    assert {name.partition("/")[0] for name in fresh.states()} == {"step_5"}


def test_storage_that_fails_is_said_and_the_next_state_is_tried_again(s3: tuple[Path, str], tmp_path: Path) -> None:
    lying, uri = s3
    machine = Machine(tmp_path / "machine", uri)
    with pytest.MonkeyPatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        machine.save(3)
        machine.mirror_now()
        assert (
            "can't be asked for a full state, so the training begins at the start"
            in Machine(tmp_path / "fresh", uri).fetch()
        )
    (failure,) = machine.mirror.failures
    assert failure.startswith(f"the full state of step 3 is not in {uri}: ")
    assert machine.said == [f"  {failure}; the next one is tried again"]
    assert "another-secret" not in machine.said[0]
    machine.save(5)
    machine.mirror_now()
    assert (lying / "id" / "key" / "step_5" / "state.json").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_killed_run_continues_on_a_fresh_machine_to_the_same_weights(
    s3: tuple[Path, str], train_inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    lying, uri = s3
    cfg = changed(checkpoint_every_steps=1, state_uri=uri)
    inputs = replace(train_inputs, state_id="this training", key="key")
    lost, out = tmp_path / "lost", tmp_path / "out"
    lost.mkdir()
    out.mkdir()
    with running(cfg, inputs, lost) as parent:
        arrived = lying / "this training" / "key"
        assert wait_for(lambda: steps_done(lost) > 10 and any(arrived.glob("*/state.json")), 240)
        parent.kill()
        assert wait_for(lambda: not ranks(lost), 5)
    said: list[str] = []
    progress = Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign] # to read what a person would
    continued = train(cfg, inputs, out, progress)
    assert any(line.startswith("  takes the full state of step") for line in said)
    assert weights(continued) == weights(trained)
    assert curve(out) == curve(trained.root)
    assert continued.unmirrored == ()
    assert not [path for path in lying.rglob("*") if path.is_file()]
