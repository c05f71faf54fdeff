"""Names beside hashes: links in a run's folder to what lies in the store, so that a person finds it without a key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sft.artifacts import LOGS_NAME, Artifact, CheckpointArtifact, ModelPackage
from sft.stages.select import trained_checkpoint

MODEL_LINK = "model"
ADAPTER = "adapter"


def link_results(folder: Path, artifacts: Mapping[str, Artifact]) -> list[str]:
    """Link a run's model, adapter, metrics and TensorBoard's files into its folder.

    The links are relative, so that a run root can be moved. What a person has put there under such a name stays.

    Args:
        folder: The run's.
        artifacts: What its steps have made, by step.

    Returns:
        A line for each link that could not be made.
    """
    problems = []
    for name, target in _targets(artifacts):
        link = folder / name
        if link.exists() and not link.is_symlink():
            problems.append(f"{link}: is no link and stays as it is; what this run has made is {target}")
            continue
        try:
            place = os.path.relpath(target.resolve(), folder.resolve())
            if link.is_symlink() and link.readlink() == Path(place):
                continue
            fresh = folder / f".{name}.link"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(place)
            fresh.replace(link)
        except OSError as error:
            problems.append(f"{link}: no link to {target} ({error.strerror})")
    return problems


def _targets(artifacts: Mapping[str, Artifact]) -> Iterator[tuple[str, Path]]:
    """Yield the name of each link and where it leads."""
    package, checkpoint, trained = artifacts.get("package"), trained_checkpoint(artifacts), artifacts.get("train")
    if isinstance(package, ModelPackage):
        model = package.model_dir
    elif checkpoint is not None:
        model = checkpoint.model_dir
    else:
        return
    yield MODEL_LINK, model
    parts = [model / ADAPTER]
    if checkpoint is not None:
        parts.append(checkpoint.root / ADAPTER)
    if isinstance(trained, CheckpointArtifact):
        parts += [trained.metrics_file, trained.root / LOGS_NAME / "tensorboard"]
    found = {part.name: part for part in reversed(parts) if part.exists()}
    yield from sorted(found.items())
