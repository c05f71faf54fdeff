"""Owns where rows come from: a uri of any kind in, its rows in order out.

`_KINDS` says how each kind is read, by its module (`local_files`, `storage`, `http`, `hub`, `synthetic`); what is in a
file is `readers`' business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from sft.adapters import http, hub, local_files, readers, storage, synthetic, unread_files
from sft.adapters.hub.rows import fetch_rows
from sft.adapters.local_files import SourceFile, scheme
from sft.adapters.row_batches import Batch
from sft.adapters.split_names import Wanted, select_files
from sft.errors import DataError
from sft.files import sha256_file
from sft.redaction import redact

_NAMED = 5
"""Files and folders that a note names."""
_BARE_HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w.-]+(?::[\w.-]+)?(?:@[\w./-]+)?$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows are.

    Attributes:
        uri: Path, ``file://``, ``pvc://``, ``hf://``, ``org/name``, ``synthetic://`` or what fsspec knows.
        wanted: Which split of it.
        ignored: Columns that needn't be read.
        options: Passed to fsspec.
        max_bytes: Largest file that is fetched, and the most that a compressed one may unfold to; None = any.
        follow_links: Whether links out of a folder of this machine are followed.
    """

    uri: str
    wanted: Wanted = field(default_factory=Wanted)
    ignored: Collection[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    max_bytes: int | None = None
    follow_links: bool = False

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
    return _kind(source).version(source)


def is_download(source: Source) -> bool:
    """Return whether reading a source fetches something over a network."""
    return _kind(source).is_download


def files(
    source: Source, source_version: str, folder: Path, say: Callable[[str], None], facts: SourceFacts
) -> Iterator[tuple[str, Iterator[Batch]]]:
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
    kind = _kind(source)
    with ThreadPoolExecutor(1) as aside:
        for name, file in kind.fetch(_Fetch(source, source_version, folder, say, facts.notes)):
            with local_files.opened(file) as stream:
                digest = aside.submit(sha256_file, Path(file.name))
                yield name, readers.batches(file.name, stream, source.ignored, max_bytes=source.max_bytes)
                facts.digests[name] = digest.result()
    if not kind.is_pinned and version(source) != source_version:
        raise DataError(f"{source.name}: changed while it was read", fix="repeat it when nobody writes there")


@dataclass(frozen=True)
class _Fetch:
    """What fetching takes: see `files`; `notes` gets what a person should know."""

    source: Source
    version: str
    folder: Path
    say: Callable[[str], None]
    notes: list[str]

    def say_bytes(self, done: int, total: int | None = None) -> None:
        """Tell how much has arrived."""
        self.say(f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total else f"{done / 1e6:,.1f} MB")

    def file(self, name: str) -> Path:
        """Return where a file of this name is put."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How sources of one kind are read.

    Attributes:
        takes: Whether a uri is of this kind.
        version: See `version`.
        fetch: Yields each file's name without secrets, and the file on this machine.
        is_download: Whether that fetches something over a network.
        is_pinned: Whether what is read is of `version`, whatever happens to the source meanwhile.
    """

    takes: Callable[[str], bool]
    version: Callable[[Source], str]
    fetch: Callable[[_Fetch], Iterator[tuple[str, SourceFile]]]
    is_download: bool = True
    is_pinned: bool = False


def _kind(source: Source) -> _Kind:
    return next(kind for kind in _KINDS if kind.takes(source.uri))


def _make_up(fetch: _Fetch) -> Iterator[tuple[str, SourceFile]]:
    _note_unused_split(fetch)
    target = fetch.file("rows.jsonl")
    synthetic.write(fetch.source.uri, target)
    yield fetch.source.name, SourceFile.of(target)


def _is_on_hub(uri: str) -> bool:
    """Return whether a uri names a hub dataset: ``hf://…``, or a bare ``org/name`` that is not a path here."""
    if scheme(uri) == "hf":
        return hub.parse(uri) is not None  # else a file of the hub, which fsspec reads
    return bool(_BARE_HUB_NAME.match(uri)) and not local_files.local_path(uri).exists() and not readers.supported(uri)


def _reference(source: Source) -> hub.Reference:
    if (reference := hub.parse(source.uri)) is None:
        raise DataError(f"{source.name}: names no dataset of the hub", fix="org/name, or hf://org/name@revision")
    return reference


def _commit(source: Source) -> str:
    reference = _reference(source)
    return hub.commit_of(reference.repo, reference.revision, kind="dataset")


def _fetch_from_hub(fetch: _Fetch) -> Iterator[tuple[str, SourceFile]]:
    source = fetch.source
    fetched = fetch_rows(
        _reference(source),
        fetch.version,
        source.wanted,
        fetch.folder,
        ignored=source.ignored,
        max_bytes=source.max_bytes,
        progress=fetch.say_bytes,
    )
    if fetched.left_out:
        fetch.notes.append(f"{source.name}: {fetched.left_out}")
    yield source.name, SourceFile.of(fetched.file)


def _fetch_from_web(fetch: _Fetch) -> Iterator[tuple[str, SourceFile]]:
    source = fetch.source
    _note_unused_split(fetch)
    target = fetch.folder / (PurePosixPath(unquote(urlsplit(source.uri).path)).name or "index")
    if not readers.supported(target.name):
        raise DataError(f"dataset.uri={source.name}: its path must end in {', '.join(readers.KINDS)}, or .gz, .zst")
    http.download(source.uri, target, max_bytes=source.max_bytes, progress=fetch.say_bytes)
    yield source.name, SourceFile.of(target)


def _fetch_here(fetch: _Fetch) -> Iterator[tuple[str, SourceFile]]:
    for file in _noted(fetch):
        yield redact(file.name), file


def _fetch_from_storage(fetch: _Fetch) -> Iterator[tuple[str, SourceFile]]:
    for file in _noted(fetch):
        target = fetch.folder / PurePosixPath(file.name).name
        options, max_bytes = fetch.source.options, fetch.source.max_bytes
        storage.download(file, target, options, fetch.say_bytes, max_bytes=max_bytes)
        yield redact(file.name), SourceFile.of(target)
        target.unlink()


def _versions_of_files(source: Source) -> str:
    files = storage.find(source.uri, source.options, follow_links=source.follow_links)
    return ";".join(f"{redact(file.name)}={file.version}" for file in _selected(source, files, notes=[]))


def _noted(fetch: _Fetch) -> list[SourceFile]:
    """Return the files that are read, and note which others there are."""
    source = fetch.source
    files = storage.find(source.uri, source.options, follow_links=source.follow_links)
    if unread := unread_files.unread(source.uri, source.options, files):
        kinds = f"a folder is its own {', '.join(readers.KINDS)}, also as .gz or .zst; name others by a glob"
        fetch.notes.append(f"{source.name}: not read: {_listed(unread)}; {kinds}")
    return _selected(source, files, fetch.notes)


def _listed(names: list[str]) -> str:
    """Return files of a folder in words, those of each folder in it as a number."""
    counts = Counter(f"{first}{slash}" for first, slash, _ in (redact(name).partition("/") for name in names))
    shown = []
    for name, count in counts.items():
        files = "1 file" if count == 1 else f"{count:,} files"
        shown.append(f"{name} ({files})" if name.endswith("/") else name)
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more


def _selected(source: Source, files: list[SourceFile], notes: list[str]) -> list[SourceFile]:
    """Return those files that are of the split, and note which others there are."""
    wanted = source.wanted
    if len(files) == 1 and PurePosixPath(files[0].name).name == PurePosixPath(source.uri).name:
        notes += _unused_split(source)
        return files
    selection = select_files(source.name, [file.name for file in files], wanted)
    if selection.left_out:
        left_out = ", ".join(sorted(PurePosixPath(redact(name)).name for name in selection.left_out))
        notes.append(f"{source.name}: not read: {left_out}; {wanted.key} chooses")
    return [file for file in files if file.name in selection.chosen]


def _note_unused_split(fetch: _Fetch) -> None:
    fetch.notes.extend(_unused_split(fetch.source))


def _unused_split(source: Source) -> list[str]:
    wanted = source.wanted
    return [f"{wanted.key}={wanted.split} does nothing: {source.name} is one file"] if wanted.split else []


_KINDS = (  # the first that takes a uri reads it
    _Kind(
        takes=lambda uri: scheme(uri) == synthetic.SCHEME,
        version=lambda _: str(synthetic.VERSION),
        fetch=_make_up,
        is_download=False,
    ),
    _Kind(takes=_is_on_hub, version=_commit, fetch=_fetch_from_hub, is_pinned=True),
    _Kind(
        takes=lambda uri: scheme(uri) in {"http", "https"},
        version=lambda source: http.version(source.uri, max_bytes=source.max_bytes),
        fetch=_fetch_from_web,
    ),
    _Kind(takes=local_files.is_local, version=_versions_of_files, fetch=_fetch_here, is_download=False),
    _Kind(takes=lambda _: True, version=_versions_of_files, fetch=_fetch_from_storage),
)
