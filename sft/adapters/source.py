"""Owns where rows come from: a uri of any kind in, its rows in order out.

Dispatches to the module of each kind (`storage`, `http`, `hub`, `synthetic`); what is in a file is `readers`' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sft.adapters import http, hub, readers, storage, synthetic
from sft.adapters.hub.rows import fetch_rows
from sft.adapters.split_names import Wanted, select_files
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
        wanted: Which split of it.
        ignored: Columns that needn't be read.
        options: Passed to fsspec.
        max_bytes: Largest file that is fetched over HTTP; None = any.
    """

    uri: str
    wanted: Wanted = field(default_factory=Wanted)
    ignored: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    max_bytes: int | None = None

    @property
    def name(self) -> str:
        """The uri without secrets."""
        return redact(self.uri)


@dataclass
class SourceFacts:
    """What is learned while a source is read.

    Attributes:
        digests: sha256 of each file's bytes, by its name without secrets.
        notes: What a person should know: a sentence each.
    """

    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def version(source: Source) -> str:
    """Return what changes when the rows may have changed: file times, the server's ETag, the hub's commit.

    Raises:
        DataError: The source is not there or can't be reached, or it is not clear which of its files are to be read.
    """
    if storage.scheme(source.uri) == synthetic.SCHEME:
        return f"{synthetic.VERSION}"
    if reference := _hub_reference(source.uri):
        return hub.commit_of(reference.repo, reference.revision, kind="dataset")
    if storage.scheme(source.uri) in _HTTP:
        return http.version(source.uri)
    files, _ = _selected(source)
    return ";".join(f"{redact(file.name)}={file.version}" for file in files)


def is_download(source: Source) -> bool:
    """Return whether reading a source fetches something over a network."""
    if storage.scheme(source.uri) == synthetic.SCHEME:
        return False
    return _hub_reference(source.uri) is not None or not storage.is_local(source.uri)


def files(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None], facts: SourceFacts
) -> Iterator[tuple[str, Iterator[readers.Batch]]]:
    """Yield the name and rows of each file, in order.

    Args:
        source: Where they are.
        source_version: What `version` said.
        folder: For what is fetched.
        say: Told what is being done.
        facts: Gets what is learned; files are hashed while their rows are read.

    Raises:
        DataError: The source can't be read.
    """
    with ThreadPoolExecutor(1) as aside:
        for name, file in _fetched(source, source_version, folder, say, facts.notes):
            with storage.opened(file) as stream:
                digest = aside.submit(sha256_file, Path(file.name))
                yield name, readers.batches(file.name, stream, source.ignored)
                facts.digests[name] = digest.result()
    if _hub_reference(source.uri) is None and version(source) != source_version:  # the hub's rows are of one commit
        raise DataError(f"{source.name}: changed while it was read", fix="repeat it when nobody writes there")


def _selected(source: Source) -> tuple[list[storage.SourceFile], str | None]:
    """Return the files that are read, and what there is to say about the others."""
    files = storage.find(source.uri, source.options)
    wanted = source.wanted
    if len(files) == 1 and PurePosixPath(files[0].name).name == PurePosixPath(source.uri).name:
        return files, _unused_split(source)
    selection = select_files(source.name, [file.name for file in files], wanted)
    left_out = ", ".join(sorted(PurePosixPath(redact(name)).name for name in selection.left_out))
    note = f"{source.name}: not read: {left_out}; {wanted.key} chooses" if left_out else None
    return [file for file in files if file.name in selection.chosen], note


def _unused_split(source: Source) -> str | None:
    wanted = source.wanted
    return f"{wanted.key}={wanted.split} does nothing: {source.name} is one file" if wanted.split else None


def _fetched(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None], notes: list[str]
) -> Iterator[tuple[str, storage.SourceFile]]:
    if storage.scheme(source.uri) in {synthetic.SCHEME, *_HTTP} and (note := _unused_split(source)):
        notes.append(note)
    if storage.scheme(source.uri) == synthetic.SCHEME:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "rows.jsonl"
        synthetic.write(source.uri, target)
        yield source.name, storage.find(str(target), {})[0]
    elif reference := _hub_reference(source.uri):
        fetched = fetch_rows(
            reference,
            source_version,
            source.wanted,
            folder,
            ignored=source.ignored,
            progress=lambda done: say(_bytes(done, None)),
        )
        notes += [f"{source.name}: {fetched.left_out}"] if fetched.left_out else []
        yield source.name, storage.find(str(fetched.file), {})[0]
    elif storage.scheme(source.uri) in _HTTP:
        target = folder / (PurePosixPath(unquote(urlsplit(source.uri).path)).name or "index")
        if not readers.supported(target.name):
            raise DataError(f"dataset.uri={source.name}: its path must end in {', '.join(readers.KINDS)}, or .gz, .zst")
        http.download(source.uri, target, max_bytes=source.max_bytes, progress=lambda *state: say(_bytes(*state)))
        yield source.name, storage.find(str(target), {})[0]
    else:
        selected, note = _selected(source)
        notes += [note] if note else []
        for file in selected:
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
    """Return what names a hub dataset: ``hf://…``, or a bare ``org/name`` that is not a path here; else None."""
    if storage.scheme(uri) == "hf":
        return hub.parse(uri)
    if not _BARE_HUB_NAME.match(uri) or storage.local_path(uri).exists() or readers.supported(uri):
        return None
    return hub.parse(uri)
