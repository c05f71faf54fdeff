"""A named held-out set of `eval.holdouts`: the dataset stage on rows that are all held out."""

from __future__ import annotations

from pathlib import Path

from sft.artifacts import DatasetArtifact
from sft.config.schema import RunConfig
from sft.progress import Progress
from sft.stages import dataset, sources


def held_out_set(cfg: RunConfig, name: str, out: Path, progress: Progress) -> DatasetArtifact:
    """Fetch and check the rows of a held-out set.

    Args:
        cfg: The run's configuration.
        name: The set's, in `eval.holdouts`.
        out: Private staging folder.
        progress: The run's display.

    Returns:
        A dataset without a training split.

    Raises:
        DataError: As of the dataset stage.
    """
    with sources.speaking_of(f"eval.holdouts.{name}"):
        return dataset.dataset(cfg.of_held_out_set(name).dataset, out, progress)


def source_version(cfg: RunConfig, name: str) -> str:
    """Return what changes when the rows of a set may have changed.

    Raises:
        DataError: Its source is not there or can't be reached.
    """
    with sources.speaking_of(f"eval.holdouts.{name}"):
        return sources.source_version(cfg.of_held_out_set(name).dataset)


def download(cfg: RunConfig, name: str) -> str | None:
    """Return what fetching a set will download, in words; None where nothing is."""
    return sources.download(cfg.of_held_out_set(name).dataset)
