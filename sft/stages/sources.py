"""Which sources a dataset has: that of `dataset.uri` or those of `dataset.sources`, and the evaluation source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sft.adapters import source
from sft.adapters.source import Source
from sft.adapters.split_names import Wanted
from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat
from sft.errors import DataError

_KEY = re.compile(r"\bdataset\.(?:eval_)?(uri|split|format|columns)\b")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source, and how it spells its rows.

    Attributes:
        source: Where they are.
        name: As `dataset.sources` calls it; empty for `dataset.uri` and `dataset.eval_uri`.
        max_samples: How many of its valid samples are used; None = all.
    """

    source: Source
    format: DatasetFormat
    columns: ColumnsConfig
    name: str = ""
    max_samples: int | None = None

    @property
    def is_held_out(self) -> bool:
        """Whether it is the separate evaluation set."""
        return self.source.wanted.held_out

    @property
    def key(self) -> str:
        """The setting that says where it is."""
        if self.name:
            return f"dataset.sources.{self.name}.uri"
        return "dataset.eval_uri" if self.is_held_out else "dataset.uri"

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Name a named source and its own settings in errors, in place of those of `dataset` that mean the same."""
        if not self.name:
            yield
            return
        with speaking_of(f"dataset.sources.{self.name}"):
            yield


def origins_of(cfg: DatasetConfig) -> list[Origin]:
    """Return the sources of training in their order, then the evaluation source, if there is one."""
    common = Source(
        uri=cfg.uri,
        wanted=Wanted(cfg.split),
        ignored=tuple(cfg.ignore_fields),
        options=cfg.storage_options,
        max_bytes=cfg.max_download_bytes,
        follow_links=cfg.follow_links,
    )
    origins = [
        Origin(
            source=replace(common, uri=_pinned(own.uri, own.revision), wanted=Wanted(own.split)),
            name=name,
            format=own.format,
            columns=own.columns,
            max_samples=own.max_samples,
        )
        for name, own in cfg.sources.items()
    ]
    if cfg.uri:
        origins.append(Origin(source=common, format=cfg.format, columns=cfg.columns))
    if cfg.eval_uri:
        held_out = replace(common, uri=cfg.eval_uri, wanted=Wanted(cfg.eval_split, held_out=True))
        origins.append(Origin(source=held_out, format=cfg.format, columns=cfg.columns))
    return origins


def _pinned(uri: str, revision: str | None) -> str:
    return uri if revision is None else f"{uri}@{revision}"


def source_version(cfg: DatasetConfig) -> str:
    """Return what changes when a source may have changed.

    Raises:
        DataError: A source is not there or can't be reached.
    """
    versions = []
    for origin in origins_of(cfg):
        with origin.speaking():
            versions.append(source.version(origin.source))
    return "|".join(versions)


def download(cfg: DatasetConfig) -> str | None:
    """Return what fetching the sources will download, in words; None where nothing is."""
    names = [f"dataset {origin.source.name}" for origin in origins_of(cfg) if source.is_download(origin.source)]
    return ", ".join(names) or None


@contextmanager
def speaking_of(key: str) -> Iterator[None]:
    """Name a group's own settings in errors, in place of those of `dataset` that mean the same.

    Args:
        key: Of the group: ``eval.holdouts.support``.
    """
    own = rf"{key}.\1"
    try:
        yield
    except DataError as error:
        fix = error.fix and _KEY.sub(own, error.fix)
        raise DataError(f"{key}: {_KEY.sub(own, error.message)}", fix=fix) from error
