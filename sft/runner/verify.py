"""Whether a run, or a model's folder wherever it was copied to, is still what its record says. Reads files only.

A run: ``run.json`` carries its own digest; every file of every step is hashed again; each step's inputs are what
earlier steps made; the manifests in the store, ``sft.json`` in the model's folder and the record tell the same.

A model's folder: ``sft.json`` carries its own digest and that of each file. Who changes all of them is found out by the
folder's digest, which a registry holds, or by a signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from sft import record, self_hashed_json
from sft.adapters import signing
from sft.artifacts import LOGS_NAME, MANIFEST_NAME, digest_of
from sft.errors import DataError, StageError
from sft.files import inode, sha256_file
from sft.stages.model import FILES_NAME
from sft.stages.package import FACTS
from sft.stages.upload import UPLOAD

_OF_THE_HUB = (".gitattributes", ".cache/huggingface/")
"""What the hub and its client put beside a model's files."""
_TOLD_TWICE = ("key", "inputs", "files", "facts", "settings")
"""What manifest and record both say of an artifact."""


@dataclass
class Verification:
    """What was found.

    Attributes:
        what: The folder, and what it is.
        digest: Of the model's folder, as a registry holds it; empty for a run that made none.
        num_files: Files that were hashed.
        problems: What is not as recorded, a line each.
        notes: What could not be checked.
    """

    what: str
    digest: str = ""
    num_files: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _hashed: dict[tuple[int, int], str] = field(default_factory=dict)

    def files(self, root: Path, recorded: Mapping[str, str], present: Iterable[str]) -> None:
        """Compare a folder's files with their recorded digests."""
        for name in sorted({*recorded} | {*present}):
            file = root / name
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                self.problems.append(f"{root}: its record names a file outside: {name}")
            elif name not in recorded:
                self.problems.append(f"{file}: is not in the record")
            elif not file.is_file():
                self.problems.append(f"{file}: is gone")
            elif (digest := self.hash(file)) != recorded[name]:
                self.problems.append(f"{file}: differs: its sha256 is {digest}, recorded is {recorded[name]}")

    def hash(self, file: Path) -> str:
        """Return a file's digest; one that is linked from several places is read once."""
        if (key := inode(file)) not in self._hashed:
            self._hashed[key] = sha256_file(file)
            self.num_files += 1
        return self._hashed[key]

    def unsealed(self, file: Path) -> dict[str, Any] | None:
        """Return the facts of a document with its own digest; None if it is not whole."""
        self.num_files += 1
        try:
            return self_hashed_json.load_checked(file.read_bytes())
        except ValueError as error:
            self.problems.append(f"{file}: {error}")
            return None

    def same(self, what: str, there: object, recorded: object) -> None:
        """Note a problem if two accounts of one thing differ."""
        if there != recorded:
            self.problems.append(f"{what} is not what the record says")


def verify(path: Path, *, trusted: signing.Trusted | None = None) -> Verification:
    """Check a run or a model.

    Args:
        path: A run's folder or its ``run.json``; a model's folder or its ``sft.json``.
        trusted: Who should have signed the model.

    Raises:
        DataError: There is neither a run nor a model.
    """
    folder = path.parent if path.name in {record.NAME, FACTS} else path
    if (folder / record.NAME).is_file():
        return _run(folder, trusted)
    for model in (folder, folder / "model"):
        if (model / FACTS).is_file():
            verification = Verification(f"model {model}")
            _model(verification, model, trusted)
            return verification
    raise DataError(f"{path}: neither {record.NAME} nor {FACTS} is there", fix="a run's folder, or a model's folder")


def _run(folder: Path, trusted: signing.Trusted | None) -> Verification:
    verification = Verification(f"run {folder}")
    facts = verification.unsealed(folder / record.NAME)
    if facts is None:
        return verification
    done = [step for step in facts["steps"] if step["output"]]
    _chain(verification, str(folder / record.NAME), done)
    for step in done:
        _artifact(verification, folder.parent / "store" / step["name"].partition(":")[0] / step["key"], step)
    sources = [s["facts"].get("source_files", {}) for s in done if s["name"].partition(":")[0] == "dataset"]
    for name, digest in (item for files in sources for item in files.items()):
        source = Path(facts["cwd"], name.removeprefix("file://"))
        if source.is_file() and verification.hash(source) != digest:
            verification.notes.append(
                f"{source}: is no longer what the dataset was made of; the dataset itself is in the store"
            )
    for step in facts["steps"]:
        if not step["output"]:
            verification.notes.append(f"{step['name']} is {step['status']}: nothing to check")
    steps = {step["name"]: step for step in done}
    for step in done:
        if step["name"].partition(":")[0] == "upload":
            _uploaded(
                verification, folder.parent / "store" / "upload" / step["key"] / UPLOAD, steps["package"]["files"]
            )
    if package := steps.get("package"):
        model = folder.parent / "store" / "package" / package["key"] / "model"
        carried = _model(verification, model, trusted) if (model / FACTS).is_file() else None
        if carried is not None:
            for step in carried["steps"]:
                recorded = {key: steps.get(step["name"], {}).get(key) for key in ("output", *_TOLD_TWICE)}
                verification.same(f"{model / FACTS}: {step['name']}", {key: step[key] for key in recorded}, recorded)
            verification.same(f"{model / FACTS}: config", carried["config"], facts["config"])
    return verification


def _artifact(verification: Verification, root: Path, step: Mapping[str, Any]) -> None:
    """Check one step's artifact in the store, and the base model elsewhere if it names one."""
    if not root.is_dir():
        verification.problems.append(f"{root}: is gone")
        return
    names = (file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    verification.files(
        root, step["files"], (n for n in names if n != MANIFEST_NAME and not n.startswith(f"{LOGS_NAME}/"))
    )
    try:
        manifest = msgspec.json.decode((root / MANIFEST_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, *self_hashed_json.NOT_JSON) as error:
        verification.problems.append(f"{root / MANIFEST_NAME}: unreadable ({error})")
    else:
        carried = {key: manifest.get(key) for key in ("digest", *_TOLD_TWICE)}
        verification.same(
            str(root / MANIFEST_NAME), carried, {"digest": step["output"], **{k: step[k] for k in _TOLD_TWICE}}
        )
    external = step["facts"].get("external_dir")
    if external and Path(external).is_dir() and (root / FILES_NAME).is_file():
        recorded = msgspec.json.decode((root / FILES_NAME).read_bytes(), type=dict[str, str])
        verification.files(Path(external), recorded, ())
    elif external:
        verification.notes.append(f"the base model is no longer at {external}: not checked")


def _uploaded(verification: Verification, file: Path, packaged: Mapping[str, str]) -> None:
    """Check that what was uploaded is what was packaged. The upload compared it there; this asks no server."""
    if file.is_file():  # else it is said to be gone
        carried = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        verification.same(
            str(file), {f"model/{name}": digest for name, digest in carried["files"].items()}, dict(packaged)
        )


def _model(verification: Verification, folder: Path, trusted: signing.Trusted | None) -> dict[str, Any] | None:
    """Check a model's folder; return the record that it carries, None if that is broken."""
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if not file.is_dir())
    there = [name for name in names if not name.startswith(_OF_THE_HUB)]
    facts = verification.unsealed(folder / FACTS)
    if facts is not None:
        verification.files(folder, facts["files"], (name for name in there if name not in {FACTS, signing.SIGNATURE}))
        verification.same(
            f"{folder / FACTS}: record", self_hashed_json.digest_of(facts["record"]), facts["record_digest"]
        )
        _chain(verification, str(folder / FACTS), facts["record"]["steps"])
    verification.digest = digest_of(
        {f"model/{name}": verification.hash(folder / name) for name in there if (folder / name).is_file()}
    )
    signed = (folder / signing.SIGNATURE).is_file()
    if trusted and signed:
        try:
            signing.check(folder, trusted)
        except StageError as error:
            verification.problems.append(error.message)
    elif trusted:
        verification.problems.append(f"{folder}: is not signed")
    elif signed:
        verification.notes.append(
            f"{folder / signing.SIGNATURE}: not checked; say who signs: --key, or --identity and --issuer"
        )
    return facts["record"] if facts else None


def _chain(verification: Verification, where: str, steps: Iterable[Mapping[str, Any]]) -> None:
    """Check that each step's digest is that of its files, and each input is what an earlier step made.

    ``register:2``, a second registration, has taken what an ``upload:2`` made, where there is one.
    """
    outputs: dict[str, str] = {}
    for step in steps:
        verification.same(f"{where}: {step['name']}: output", digest_of(step["files"]), step["output"])
        suffix = "".join(step["name"].partition(":")[1:])
        inputs = {name: outputs.get(name + suffix, outputs.get(name)) for name in step["inputs"]}
        verification.same(f"{where}: {step['name']}: inputs", step["inputs"], inputs)
        outputs[step["name"]] = step["output"]
