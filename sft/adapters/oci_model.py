"""Owns base models in OCI registries: an image with its files under ``/models`` (a ModelCar, as KServe serves it), or
an artifact with a layer for each file, as `sft.adapters.upload.oci` makes them.

What is downloaded is pinned by the manifest's digest, each layer is compared with its own, and of an image's layers
only regular files under ``models/`` are taken: nothing that a registry sends is written anywhere else, or run.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import Any

from sft.adapters import hub
from sft.adapters.checkpoint_files import CONFIG
from sft.adapters.upload.oci_client import Repository
from sft.errors import StageError
from sft.files import write_json

SCHEME = "oci://"

_FORM = "oci://host[:port]/repository[:tag], or with @sha256:… in the tag's place"
_REFERENCE = re.compile(
    r"oci://(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_FOLDER = "models"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TARS = re.compile(r"application/vnd\.(oci\.image\.layer\.v1\.tar|docker\.image\.rootfs\.diff\.tar)(?:[.+]gzip)?")
_TITLE = "org.opencontainers.image.title"
_PLATFORM = ("linux", "amd64")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
"""In a layer: what an earlier one had is gone (https://github.com/opencontainers/image-spec, layer.md, Whiteouts)."""
_LEAST_ROOM, _MOST_UNFOLDED = 1 << 30, 10
"""Bytes that any layer may unfold to, and how many times its own size."""
_MOST_FILES = 10_000
_GIB = 1 << 30


@dataclass(frozen=True)
class Reference:
    """A model in a registry.

    Attributes:
        host: Of the registry, with its port.
        repository: Its name there.
        wanted: Tag or digest.
    """

    host: str
    repository: str
    wanted: str


def parse(uri: str) -> Reference:
    """Return what an address ``oci://…`` names.

    Raises:
        StageError: It is malformed.
    """
    match = _REFERENCE.fullmatch(uri)
    if match is None:
        raise StageError(f"model.name_or_path={uri}: no address of a model", fix=f"write {_FORM}")
    return Reference(match["host"], match["repository"], match["digest"] or match["tag"] or "latest")


def digest_of(uri: str) -> str:
    """Return the digest that stands for the model now; a digest in the address is returned without asking.

    Raises:
        StageError: The registry refuses, can't be reached, or has no such model.
    """
    reference = parse(uri)
    if _DIGEST.fullmatch(reference.wanted):
        return reference.wanted
    digest, _ = Repository(reference.host, reference.repository, is_pull=True).find(reference.wanted)
    note = _note(uri)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"digest": digest})
    return digest


def cached(uri: str) -> Path:
    """Return the folder in which the model is, if it has been downloaded; it may not exist."""
    reference, note = parse(uri), _note(uri)
    if _DIGEST.fullmatch(reference.wanted):
        return _folder(reference.wanted)
    return _folder(json.loads(note.read_text(encoding="utf-8"))["digest"] if note.is_file() else "sha256:unknown")


def fetch(uri: str, update: Callable[[str], None]) -> tuple[Path, str]:
    """Download a model, unless it is there, and return its folder and its digest.

    Args:
        uri: ``oci://…``.
        update: Shows how much has arrived.

    Raises:
        StageError: The registry refuses, can't be reached or sends something else than was announced, or what is there
            is no model.
    """
    reference, digest = parse(uri), digest_of(uri)
    folder = _folder(digest)
    if folder.is_dir():
        return folder, digest
    repository = Repository(reference.host, reference.repository, is_pull=True)
    layers = _layers(repository, digest, uri)
    total, arrived = sum(layer["size"] for layer in layers), 0

    def count(num_bytes: int) -> None:
        nonlocal arrived
        arrived += num_bytes
        update(f"fetching {uri}: {arrived / _GIB:.2f} of {total / _GIB:.2f} GiB")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.part-") as scratch:
        blob, made = Path(scratch, "layer"), Path(scratch, "model")
        made.mkdir()
        for layer in layers:
            repository.pull(layer["digest"], layer["size"], blob, count)
            if _TARS.fullmatch(layer["mediaType"]):
                _unpack(blob, made, uri)
            else:
                target = _inside(made, PurePosixPath(layer["annotations"][_TITLE]), uri)
                target.parent.mkdir(parents=True, exist_ok=True)
                blob.rename(target)
        try:
            _model_in(made, uri).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has brought it meanwhile
                raise
    return folder, digest


def _layers(repository: Repository, digest: str, uri: str) -> list[dict[str, Any]]:
    """Return the layers with files of a model, in their order.

    Raises:
        StageError: The manifest is none of a model.
    """
    try:
        _, content = repository.find(digest)
        manifest = json.loads(content)
        if "manifests" in manifest:
            _, content = repository.find(_for_this_machine(manifest["manifests"]))
            manifest = json.loads(content)
        layers = [layer for layer in manifest["layers"] if _TARS.fullmatch(layer["mediaType"]) or _file_name(layer)]
        other = [layer["mediaType"] for layer in manifest["layers"] if layer not in layers]
        sound = all(
            _DIGEST.fullmatch(layer["digest"]) and isinstance(layer["size"], int) and layer["size"] >= 0
            for layer in layers
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StageError(f"{uri}: its manifest is malformed ({type(error).__name__})", fix=f"write {_FORM}") from error
    if other or not layers or not sound:
        why = f"layers of {', '.join(sorted(set(other)))}" if other else "no layer with files"
        fix = "an image with the model's files under /models, or an artifact with a layer for each file"
        raise StageError(f"{uri}: {why}, which is no model that can be read", fix=fix)
    return layers


def _file_name(layer: Mapping[str, Any]) -> str:
    """Return the file that a layer is, as it is; empty if it is an archive or has no name."""
    is_archive = layer["mediaType"].rpartition(".")[2] in {"tar", "tar+gzip", "tar+zstd", "zstd", "gzip"}
    return "" if is_archive else str(layer.get("annotations", {}).get(_TITLE, ""))


def _for_this_machine(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of an index's image for Linux on amd64, or else of its first one: files are the same."""
    platforms = {
        (one.get("platform", {}).get("os"), one.get("platform", {}).get("architecture")): str(one["digest"])
        for one in reversed(manifests)
    }
    return platforms.get(_PLATFORM) or str(manifests[0]["digest"])


def _unpack(archive: Path, folder: Path, uri: str) -> None:
    """Write the files under ``models/`` of a layer into a folder."""
    try:
        room = max(_LEAST_ROOM, _MOST_UNFOLDED * archive.stat().st_size)
        with tarfile.open(archive, "r:*") as members:
            for number, (member, path) in enumerate(_of_model(members, room, uri)):
                if number >= _MOST_FILES:
                    raise StageError(f"{uri}: more than {_MOST_FILES:,} files under /{_FOLDER}")
                _put(members, member, path, folder, uri)
    except (tarfile.TarError, BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise StageError(f"{uri}: a layer is no archive ({type(error).__name__})") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise StageError(f"{uri}: a layer has a file where another has a folder") from error


def _of_model(members: tarfile.TarFile, room: int, uri: str) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Yield what lies under ``models/``, with its path there, while all members together have at most `room` bytes."""
    for member in members:
        room -= member.size
        if room < 0:
            rule = f"a layer unfolds to more than {_MOST_UNFOLDED} times its size, as weights never do"
            raise StageError(f"{uri}: {rule}", fix="make the image with layers that are not compressed")
        parts = [part for part in PurePosixPath(member.name.lstrip("/")).parts if part != "."]
        if len(parts) > 1 and parts[0] == _FOLDER:
            yield member, PurePosixPath(*parts[1:])


def _put(members: tarfile.TarFile, member: tarfile.TarInfo, path: PurePosixPath, folder: Path, uri: str) -> None:
    target = _inside(folder, path, uri)
    if path.name == _OPAQUE:
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir(parents=True)
    elif path.name.startswith(_WHITEOUT):
        gone = _inside(folder, path.with_name(path.name.removeprefix(_WHITEOUT)), uri)
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink(missing_ok=True)
    elif member.isdir():
        target.mkdir(parents=True, exist_ok=True)
    elif member.isreg():
        content = members.extractfile(member)
        if content is None:
            raise StageError(f"{uri}: /{_FOLDER}/{path} has no content")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
    else:
        fix = "make an image whose files under /models are files, not links"
        raise StageError(f"{uri}: /{_FOLDER}/{path} is a link or a device, and only files are taken", fix=fix)


def _inside(folder: Path, path: PurePosixPath, uri: str) -> Path:
    """Return a path in a folder.

    Raises:
        StageError: It leads out of it.
    """
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in str(path):
        raise StageError(f"{uri}: names a file {str(path)!r} that would lie outside of the model")
    return folder / path


def _model_in(folder: Path, uri: str) -> Path:
    """Return the folder with the model: that of ``/models``, or the one folder in it that has a ``config.json``."""
    places = [place for place in (folder, *sorted(folder.iterdir())) if (place / CONFIG).is_file()]
    if not places:
        fix = "an image with the model's files under /models, or an artifact with a layer for each file"
        raise StageError(f"{uri}: no {CONFIG} under /{_FOLDER}", fix=fix)
    if places[0] != folder and len(places) > 1:
        names = ", ".join(place.name for place in places)
        raise StageError(f"{uri}: several models under /{_FOLDER}: {names}", fix="make an image of each")
    return places[0]


def _root() -> Path:
    """Return where models from registries are kept: beside those of the hub, which a TrainJob's pods find too."""
    return hub.cache_folder() / "oci"


def _folder(digest: str) -> Path:
    return _root() / digest.replace(":", "-")


def _note(uri: str) -> Path:
    """Return the file that says which digest an address had when it was last looked up."""
    reference = parse(uri)
    name = "--".join((reference.host.replace(":", "-"), reference.repository.replace("/", "--"), reference.wanted))
    return _root() / "tags" / f"{name}.json"
