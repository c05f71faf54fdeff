"""Owns where rows come from: a uri of any kind in, its rows in order out.

Dispatches to the module of each kind (`storage`, `http`, `hub`, `synthetic`); what is in a file is `readers`' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sft.adapters import http, hub, readers, storage, synthetic
from sft.adapters.hub.rows import fetch_rows
from sft.errors import DataError
from sft.files import sha256_file
from sft.logs import redact

_HTTP = {"http", "https"}

_BARE_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w.-]+(?::[\w.-]+)?(?:@[\w./-]+)?$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are.

    Attributes:
        uri: Path, ``file://``, ``pvc://``, ``hf://``, ``org/name``, ``synthetic://`` or what fsspec knows.
        split: Split of a hub dataset; None = its training split.
        options: Passed to fsspec.
        max_bytes: Largest file that is fetched over HTTP; None = any.
    """

    uri: str
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    max_bytes: int | None = None

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
    if storage.scheme(source.uri) in _HTTP:
        return http.version(source.uri)
    return ";".join(f"{redact(file.name)}={file.version}" for file in storage.find(source.uri, source.options))


def is_download(source: Source) -> bool:
    """Whether reading it fetches something over a network."""
    if storage.scheme(source.uri) == synthetic.SCHEME:
        return False
    return _hub_reference(source.uri) is not None or not storage.is_local(source.uri)


def files(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None], digests: dict[str, str]
) -> Iterator[tuple[str, Iterator[readers.Batch]]]:
    """Name and rows of each file, in order.

    Args:
        source: Where they are.
        source_version: What `version` said.
        folder: For what is fetched.
        say: Told what is being done.
        digests: Gets the sha256 of each file's bytes; they are hashed while the rows are read.

    Raises:
        DataError: The source can't be read.
    """
    with ThreadPoolExecutor(1) as aside:
        for name, file in _fetched(source, source_version, folder, say):
            with storage.opened(file) as stream:
                digest = aside.submit(sha256_file, Path(file.name))
                yield name, readers.batches(file.name, stream)
                digests[name] = digest.result()
    if _hub_reference(source.uri) is None and version(source) != source_version:  # the hub's rows are of one commit
        raise DataError(f"{source.name}: changed while it was read", fix="repeat it when nobody writes there")


def _fetched(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None]
) -> Iterator[tuple[str, storage.SourceFile]]:
    if storage.scheme(source.uri) == synthetic.SCHEME:
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / "rows.jsonl"
        synthetic.write(source.uri, made)
        yield source.name, storage.find(str(made), {})[0]
    elif reference := _hub_reference(source.uri):
        fetched = fetch_rows(reference, source_version, source.split, folder, lambda done: say(_bytes(done, None)))
        yield source.name, storage.find(str(fetched), {})[0]
    elif storage.scheme(source.uri) in _HTTP:
        target = folder / (PurePosixPath(unquote(urlsplit(source.uri).path)).name or "index")
        if not readers.supported(target.name):
            raise DataError(f"dataset.uri={source.name}: its path must end in {', '.join(readers.KINDS)}, or .gz, .zst")
        http.download(source.uri, target, max_bytes=source.max_bytes, progress=lambda *state: say(_bytes(*state)))
        yield source.name, storage.find(str(target), {})[0]
    else:
        for file in storage.find(source.uri, source.options):
            if storage.is_local(file.name):
                yield redact(file.name), file
                continue
            target = folder / PurePosixPath(file.name).name
            storage.download(file, target, source.options, lambda *state: say(_bytes(*state)))
            yield redact(file.name), storage.find(str(target), {})[0]
            target.unlink()


def _bytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total else f"{done / 1e6:,.1f} MB"


def _hub_reference(uri: str) -> hub.Reference | None:
    """A hub dataset: ``hf://…``, or a bare ``org/name`` that is no path here."""
    if storage.scheme(uri) == "hf":
        return hub.parse(uri)
    if not _BARE_HUB_NAME.match(uri) or storage.local_path(uri).exists() or readers.supported(uri):
        return None
    return hub.parse(uri)
