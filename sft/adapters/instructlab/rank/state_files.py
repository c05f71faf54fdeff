"""Owns the files of a full state: torch.distributed.checkpoint's, a part per rank, read without running what they hold.

`torch.distributed.checkpoint` reads its ``.metadata`` with pickle, and values that are no tensors with ``torch.load``,
either of which runs code that a hostile file names (filesystem.py:930, default_planner.py@2.13). A state that came from
a server is somebody's data, so here metadata may name only torch's own descriptions of tensors, and a state holds
nothing but tensors, which torch reads with ``weights_only``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.errors import StageError

METADATA = ".metadata"
_SCALARS = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}
_ALLOWED = {
    **dict.fromkeys(
        ("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex"),
        "torch.distributed.checkpoint.metadata",
    ),
    **dict.fromkeys(("StorageMeta", "_MEM_FORMAT_ENCODING"), "torch.distributed.checkpoint.metadata"),
    "_StorageInfo": "torch.distributed.checkpoint.filesystem",
    "_get_layout": "torch.serialization",
    "Size": "torch",
    **dict.fromkeys(_SCALARS, "torch"),
}
"""What metadata may name, each with its module."""


class _MetadataUnpickler(pickle.Unpickler):
    """Reads descriptions of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if _ALLOWED.get(name) != module:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no full state needs")
        return super().find_class(module, name)


def write(
    tensors: Mapping[str, Any], folder: Path, *, copies: Mapping[str, Any] | None = None, group: Any = None
) -> None:
    """Write every rank's part, synced to the disk, and the metadata. Called by all ranks together.

    Args:
        tensors: What there is, each rank's own part of it where it is sharded.
        folder: Where it goes.
        copies: By name, this rank's parts as they are to be written; those that are not there are written as they are
            now.
        group: Ranks agree over it; None = over the default one.

    Raises:
        OSError: A rank can't write its part; raised on every rank.
        RuntimeError: The same, said by torch's writer.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    class Writer(checkpoint.FileSystemWriter):  # type: ignore[misc]
        def storage_meta(self) -> None:  # it would hold this machine's path, as an object of pathlib
            return None

    class Planner(DefaultSavePlanner):  # type: ignore[misc]
        def lookup_object(self, index: Any) -> Any:
            return copies[index.fqn] if copies and index.fqn in copies else super().lookup_object(index)

    writer = Writer(folder, sync_files=True)
    planner = Planner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        checkpoint.save(dict(tensors), storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as failed:  # a BaseException
        raise first_failure(failed) from failed


def first_failure(failed: Any) -> BaseException:
    """Return why the lowest rank that failed did."""
    error: BaseException = failed.failures[min(failed.failures)][0]
    return error


def read(tensors: Mapping[str, Any], folder: Path) -> None:
    """Read into tensors, in place, whatever their sharding was when they were saved. Called by all ranks together.

    Raises:
        StageError: The state has no such tensor, or one of another shape.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    class TensorPlanner(DefaultLoadPlanner):  # type: ignore[misc]
        def load_bytes(self, read_item: Any, _value: Any) -> None:
            raise StageError(f"the full state has something else than a tensor as {read_item.dest_index.fqn}")

    class Reader(checkpoint.FileSystemReader):  # type: ignore[misc]
        def read_metadata(self, *_args: Any, **_kwargs: Any) -> Any:
            return read_metadata(folder)

    planner = TensorPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        checkpoint.load(dict(tensors), storage_reader=Reader(folder), planner=planner)
    except CheckpointException as failed:
        error = first_failure(failed)
        raise StageError(f"the full state {folder.name} can't be loaded: {error}") from failed


def read_metadata(folder: Path) -> Any:
    """Return the metadata of a state.

    Raises:
        StageError: It holds something else than descriptions of tensors.
    """
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

    try:
        with (folder / METADATA).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("it is no metadata")
        for name, facts in metadata.state_dict_metadata.items():
            if not isinstance(facts, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{name} is no tensor")
        for place in metadata.storage_data.values():
            if Path(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"{place.relative_path} lies elsewhere")
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise StageError(f"{METADATA} is not read: {error}") from error
    metadata.storage_meta = metadata.storage_meta or StorageMeta()
    return metadata
