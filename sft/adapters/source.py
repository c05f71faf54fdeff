"""Owns where rows come from: a uri of any kind in, its rows in order out.

Dispatches to the room of each kind (`storage`, `hub`, `synthetic`); what is in a file is `readers`' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.adapters import hub, readers, storage, synthetic
from sft.adapters.process import run_module
from sft.logs import redact

_BARE_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w.-]+(?::[\w.-]+)?(?:@[\w./-]+)?$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are.

    Attributes:
        uri: Path, ``file://``, ``pvc://``, ``hf://``, ``org/name``, ``synthetic://`` or what fsspec knows.
        split: Split of a hub dataset; None = its training split.
        options: Passed to fsspec.
    """

    uri: str
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The uri without secrets."""
        return redact(self.uri)


def version(source: Source) -> str:
    """What changes when the rows may have changed: file times, the server's ETag, the hub's commit.

    Raises:
        DataError: The source is not there or can't be reached.
    """
    if storage.scheme(source.uri) == synthetic.SCHEME:
        return f"{synthetic.VERSION}"
    if reference := _hub_reference(source.uri):
        return hub.commit_of(reference.repo, reference.revision, kind="dataset")
    return ";".join(f"{file.name}={file.version}" for file in storage.find(source.uri, source.options))


def is_download(source: Source) -> bool:
    """Whether reading it fetches something over a network."""
    if storage.scheme(source.uri) == synthetic.SCHEME:
        return False
    return _hub_reference(source.uri) is not None or not storage.is_local(source.uri)


def files(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None]
) -> Iterator[tuple[str, Iterator[readers.Batch]]]:
    """Name and rows of each file, in order.

    Args:
        source: Where they are.
        source_version: What `version` said.
        folder: For what is fetched.
        say: Told what is being done.

    Raises:
        DataError: The source can't be read.
    """
    for name, file in _fetched(source, source_version, folder, say):
        with storage.opened(file, source.options) as stream:
            yield name, readers.batches(file.name, stream)


def _fetched(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None]
) -> Iterator[tuple[str, storage.SourceFile]]:
    made = folder / "rows.jsonl"
    if storage.scheme(source.uri) == synthetic.SCHEME:
        folder.mkdir(parents=True, exist_ok=True)
        synthetic.write(source.uri, made)
        yield source.name, storage.find(str(made), {})[0]
    elif reference := _hub_reference(source.uri):
        say(f"fetching {source.name}")
        request = {"repo": reference.repo, "config": reference.config, "commit": source_version, "split": source.split}
        run_module("sft.adapters.hub", {**request, "target": str(made)}, folder=folder, what=f"fetching {source.name}")
        yield source.name, storage.find(str(made), {})[0]
    else:
        for file in storage.find(source.uri, source.options):
            yield redact(file.name), file


def _hub_reference(uri: str) -> hub.Reference | None:
    """A hub dataset: ``hf://…``, or a bare ``org/name`` that is no path here."""
    if storage.scheme(uri) == "hf":
        return hub.parse(uri)
    if not _BARE_HUB_NAME.match(uri) or storage.local_path(uri).exists() or readers.supported(uri):
        return None
    return hub.parse(uri)
