"""The files of a state: what may be in its metadata, and that nothing in it is run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.rank import state_files
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned by torch when gloo finds no network but the loopback, and of its own functions.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    import torch

    folder = tmp_path / "step_1"
    kinds = [getattr(torch, name) for name in state_files._SCALARS]
    state_files.write({"w": torch.arange(6.0), **{str(kind): torch.ones(2, dtype=kind) for kind in kinds}}, folder)
    return folder


def test_tensors_of_every_type_are_read_in_place(state: Path) -> None:
    import torch

    kinds = [getattr(torch, name) for name in state_files._SCALARS]
    target = {"w": torch.zeros(6), **{str(kind): torch.zeros(2, dtype=kind) for kind in kinds}}
    state_files.read(target, state)
    assert target["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert all(target[str(kind)].tolist() == [1, 1] for kind in kinds)


def test_metadata_names_no_place_of_the_machine(state: Path) -> None:
    assert str(state.parent).encode() not in (state / ".metadata").read_bytes()


class Hostile:
    """What pickle would call when it reads this."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def test_a_hostile_file_runs_nothing(state: Path, tmp_path: Path) -> None:
    import os

    import torch

    witness = tmp_path / "it ran"
    hostile = pickle.dumps(Hostile(os.mkdir, str(witness)))
    pickle.loads(hostile)
    assert witness.exists(), "the file is not hostile, so this proves nothing"
    witness.rmdir()
    (state / ".metadata").write_bytes(hostile)
    with pytest.raises(StageError, match=r"it names posix\.mkdir, which no full state needs"):
        state_files.read({"w": torch.zeros(6)}, state)
    assert not witness.exists()


def other_metadata(state: Path, change: Callable[[Any], None]) -> None:
    metadata = pickle.loads((state / ".metadata").read_bytes())
    change(metadata)
    (state / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_part_that_lies_elsewhere_is_not_read(state: Path) -> None:
    def elsewhere(metadata: Any) -> None:
        for place in metadata.storage_data.values():
            place.relative_path = f"../{place.relative_path}"

    other_metadata(state, elsewhere)
    with pytest.raises(StageError, match=r"\.\./__0_0.distcp lies elsewhere"):
        state_files.read_metadata(state)


def test_values_that_are_no_tensors_are_refused(state: Path) -> None:
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    other_metadata(state, lambda metadata: metadata.state_dict_metadata.update(w=BytesStorageMetadata()))
    with pytest.raises(StageError, match=r"BytesStorageMetadata, which no full state needs"):
        state_files.read_metadata(state)


@pytest.mark.parametrize("content", [b"", b"\x80", pickle.dumps([1]), b"no pickle at all"])
def test_what_is_no_metadata_is_refused(content: bytes, state: Path) -> None:
    (state / ".metadata").write_bytes(content)
    with pytest.raises(StageError, match=r"\.metadata is not read: "):
        state_files.read_metadata(state)


def test_a_tensor_of_another_shape_is_refused(state: Path) -> None:
    import torch

    with pytest.raises(StageError, match="the full state step_1 can't be loaded"):
        state_files.read({"w": torch.zeros(5)}, state)


def test_a_part_that_is_no_tensor_runs_nothing(state: Path, tmp_path: Path) -> None:
    import os

    import torch

    witness = tmp_path / "it ran"
    torch.save(Hostile(os.mkdir, str(witness)), state / "__0_0.distcp")

    def at_the_start(metadata: Any) -> None:
        for place in metadata.storage_data.values():
            place.offset, place.length = 0, (state / "__0_0.distcp").stat().st_size

    other_metadata(state, at_the_start)
    with pytest.raises(StageError, match="can't be loaded"):
        state_files.read({"w": torch.zeros(6)}, state)
    assert not witness.exists()
