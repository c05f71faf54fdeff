"""Owns the artifact store: a key in, a folder out, made once.

    store/<stage>/<key>/…            an artifact and its manifest.json; never changed after it appeared
    store/.staging/<stage>-<key>/    one being made; what a killed training resumes from
    store/.locks/<stage>-<key>.lock  held while it is being made
    store/.trash/<time>/…            what was pruned, by its place in the store, for a week

An artifact appears by one rename, so a reader sees all of it or nothing. Only the runner uses the store; knows
nothing of what the stages do.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import filelock
import msgspec

from sft.artifacts import MANIFEST_NAME, Artifact, digest_of, hash_files
from sft.errors import StoreError
from sft.file_locks import try_lock
from sft.files import inode, make_folder, read_document, sha256_file, sync
from sft.redaction import redacted
from sft.self_hashed_json import NOT_JSON

SCHEMA = 2
TRASH = ".trash"
ANSWERS = ".answers"
_WAIT_SECONDS = 1.0
_CLOCK_SECONDS = 1.0
"""How far a file's time may be behind the clock: kernels note it in steps of milliseconds."""


class Manifest(msgspec.Struct, kw_only=True):
    """``manifest.json`` beside an artifact's files.

    Attributes:
        files: sha256 of each file by relative path, as the digest counts them.
        sizes: Bytes of each file.
        artifact: Its type in `sft.artifacts`.
        facts: The artifact's own fields.
        settings: What, besides the inputs, determined the key.
        inputs: Digest of each input artifact by step.
        made_at: Seconds since the epoch.
    """

    schema: int
    artifact: str = ""
    stage: str
    key: str
    digest: str
    files: dict[str, str]
    sizes: dict[str, int]
    facts: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, str]
    seconds: float
    made_at: float


@dataclass(frozen=True)
class Entry:
    """A published artifact."""

    path: Path
    manifest: Manifest

    @property
    def artifact(self) -> Artifact:
        """The typed artifact, rooted where it lies.

        Raises:
            StoreError: The manifest doesn't hold its facts.
        """
        facts = {**self.manifest.facts, "root": str(self.path), "digest": self.manifest.digest}
        try:
            kind = Artifact.kind(self.manifest.artifact)
            return msgspec.convert(facts, kind, dec_hook=lambda kind, value: kind(value))
        except (KeyError, ValueError) as error:  # msgspec's own is a ValueError
            message = (
                f"{self.path}: {MANIFEST_NAME} doesn't hold a {self.manifest.artifact or 'known artifact'}: {error}"
            )
            raise StoreError(message, fix=f"rm -r {shlex.quote(str(self.path))}") from error

    @property
    def num_bytes(self) -> int:
        return sum(self.manifest.sizes.values())


class Store:
    """The store under one run root.

    Attributes:
        root: Its folder.
        staging_root: Folder of what is being made, and of what killed tries have left.
        answers: Folder of what models answered when they were scored, a folder for each by its artifact's digest.
        trash: Folder of what was pruned.

    Raises:
        StoreError: The folder can't be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.staging_root = self.root / ".staging"
        self.answers = self.root / ANSWERS
        self._locks = self.root / ".locks"
        self.trash = self.root / TRASH

    def open(self) -> None:
        """Make the folders.

        Raises:
            StoreError: They can't be made, written or locked.
        """
        is_writable = False
        try:
            for folder in (self.root, self.staging_root, self._locks):
                make_folder(folder)
            # Not named by the process's number: each pod has a process 1.
            with tempfile.NamedTemporaryFile("a+", prefix=".probe-", dir=self._locks) as file:
                is_writable = True
                try_lock(file)
        except OSError as error:
            if is_writable:
                message = f"run_root: {self.root} has no locks ({error.strerror}), by which runs share it"
                raise StoreError(message, fix="run_root=FOLDER on another file system") from error
            raise StoreError(f"run_root: can't write {self.root} ({error.strerror})", fix="run_root=FOLDER") from error

    def find(self, stage: str, key: str) -> Entry | None:
        """Return the artifact of a key, or None.

        Raises:
            StoreError: It is there, but a file of it is missing or of another size.
        """
        path = self.root / stage / key
        if not path.exists():
            return None
        try:
            manifest = msgspec.json.decode(read_document(path / MANIFEST_NAME), type=Manifest)
            whole = all((path / name).stat().st_size == size for name, size in manifest.sizes.items())
        except (*NOT_JSON, OSError, ValueError) as error:  # ValueError: a name that holds NUL
            raise StoreError(f"{path}: unreadable ({error})", fix=f"rm -r {shlex.quote(str(path))}") from error
        if manifest.schema != SCHEMA:  # of another version of sft: its keys are other ones
            return None
        if not whole:
            raise StoreError(f"{path}: its files are not those it was made with", fix=f"rm -r {shlex.quote(str(path))}")
        return Entry(path, manifest)

    def entries(self) -> list[Entry]:
        """Return every artifact, oldest first, but those of `outdated`."""
        entries = [entry for path in self._folders() if (entry := self.find(path.parent.name, path.name))]
        return sorted(entries, key=lambda entry: entry.manifest.made_at)

    def outdated(self) -> list[Path]:
        """Return the folders of artifacts that another version of sft made, which this one doesn't use."""
        return [path for path in self._folders() if self.find(path.parent.name, path.name) is None]

    def _folders(self) -> list[Path]:
        return sorted(manifest.parent for manifest in self.root.glob(f"[!.]*/*/{MANIFEST_NAME}"))

    @contextmanager
    def lock(self, stage: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a key against every other process on this store; calls `waiting` each second until it is free."""
        lock = filelock.FileLock(self._locks / f"{stage}-{key}.lock")
        while True:
            try:
                lock.acquire(timeout=_WAIT_SECONDS)
                break
            except filelock.Timeout:
                waiting()
        try:
            yield
        finally:
            lock.release()

    def staging_path(self, stage: str, key: str) -> Path:
        """Return where a key is made, and what a killed try has left."""
        return self.staging_root / f"{stage}-{key}"

    def staging(self, stage: str, key: str, *, resume: bool) -> Path:
        """Return the private folder in which a key is made, under its lock; `resume` keeps what a killed try left."""
        path = self.staging_path(stage, key)
        if path.exists() and not resume:
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def idle_tries(self, stage: str, key: str) -> Iterator[list[Path]]:
        """Hold the tries of other keys at which nobody is at work until the block ends; yield their staging folders."""
        with ExitStack() as locks:
            idle = []
            for path in sorted(self.staging_root.glob(f"{stage}-*")):
                lock = filelock.FileLock(self._locks / f"{path.name}.lock")
                if path.name != f"{stage}-{key}":
                    with suppress(filelock.Timeout):
                        locks.enter_context(lock.acquire(timeout=0))
                        idle.append(path)
            yield idle

    def size_of_tries(self, stage: str) -> int:
        """Return the bytes that killed tries of a stage have left, and those at work have written so far."""
        size = 0
        for file in self.staging_root.glob(f"{stage}-*/**/*"):
            with suppress(FileNotFoundError):  # a run at work removes it
                size += file.stat().st_size
        return size

    def publish(
        self,
        key: str,
        stage: str,
        made: Artifact,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        seconds: float,
        shared: Iterable[Path] = (),
    ) -> Entry:
        """Hash what a stage made in its staging folder and move it into place.

        Args:
            key: Of the artifact.
            stage: That made it.
            made: The artifact, in its staging folder.
            settings: What, besides the inputs, determined the key. Secrets in them are masked.
            inputs: Digest of each input artifact by step.
            seconds: What it took.
            shared: Published artifacts of which files may be linked here; those are not hashed a second time.

        Raises:
            StoreError: A linked file has changed since it was published.
        """
        files = hash_files(made.root, _linked(made.root, shared))
        builtins = redacted(msgspec.to_builtins(made, enc_hook=str))
        manifest = Manifest(
            schema=SCHEMA,
            artifact=type(made).__name__,
            stage=stage,
            key=key,
            digest=digest_of(files),
            files=files,
            sizes={name: (made.root / name).stat().st_size for name in files},
            facts={name: value for name, value in builtins.items() if name not in {"root", "digest"}},
            settings=redacted(dict(settings)),
            inputs=dict(inputs),
            seconds=round(seconds, 3),
            made_at=round(time.time(), 3),
        )
        (made.root / MANIFEST_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        target = self.root / stage / key
        make_folder(target.parent)
        _sync_all(made.root)
        made.root.rename(target)
        sync(target.parent)  # a crash now leaves all of it; one before leaves it in staging
        return Entry(target, manifest)

    def discard(self, entry: Entry) -> None:
        """Remove an artifact, under its lock, so that it is made again."""
        shutil.rmtree(entry.path)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `prune` away while the block lasts; many runs at once may."""
        with self._use() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every run away while the block lasts.

        Raises:
            StoreError: One is at work.
        """
        with self._use() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError("a run is using the store", fix="prune when it has ended") from error
            yield

    def _use(self) -> IO[str]:
        self._locks.mkdir(exist_ok=True)  # a copy of a store may lack hidden folders
        return (self._locks / "use").open("a+")  # NFS shares a lock only of a file that is open for reading


def _sync_all(folder: Path) -> None:
    """Return once a folder's files, then its folders' names, are on the disk."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    for path in [*(path for path in paths if path.is_file()), *(path for path in paths if path.is_dir()), folder]:
        sync(path)


def _linked(folder: Path, shared: Iterable[Path]) -> dict[tuple[int, int], str]:
    """Return digests by inode of the files in `folder` that are hard links to files of published artifacts.

    A file that was written to after it was published is hashed again: what its manifest says is then no longer known.

    Raises:
        StoreError: Such a file differs from its manifest.
    """
    links = {inode(file) for file in folder.rglob("*") if file.is_file() and file.stat().st_nlink > 1}
    digests = {}
    for root in shared if links else ():
        manifest = msgspec.json.decode(read_document(root / MANIFEST_NAME), type=Manifest)
        for file, digest in ((root / name, digest) for name, digest in manifest.files.items()):
            if inode(file) in links:
                if file.stat().st_mtime > manifest.made_at - _CLOCK_SECONDS and sha256_file(file) != digest:
                    raise StoreError(f"{file}: changed after it was made", fix=f"rm -r {shlex.quote(str(root))}")
                digests[inode(file)] = digest
    return digests
