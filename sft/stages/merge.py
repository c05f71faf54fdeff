"""Adapters of one base model, each by a weight, put into its weights: a model folder with a record of what is in it.

W + sum_i w_i s_i B_i A_i (`sft.adapters.merged_adapters`). The folder appears whole or not at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sft.adapters import adapter_files
from sft.adapters.adapter_files import AdapterFiles
from sft.adapters.checkpoint_files import files_of
from sft.adapters.os.process import run_module
from sft.errors import StageError
from sft.files import sha256_file, write_json
from sft.progress import Progress
from sft.stages import model_checks

RECORD, SCHEMA = "merge.json", 1
_MODULE, _PACKAGES = "sft.adapters.merged_adapters", ("torch", "transformers", "peft")


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that is merged into.

    Attributes:
        name: As it was given.
        revision: Commit of the hub; empty for a folder.
        folder: Where its files are.
        trust_remote_code: Whether its own code may run.
    """

    name: str
    revision: str
    folder: Path
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """An adapter and the number by which it is multiplied."""

    files: AdapterFiles
    weight: float = 1.0


def find(path: Path, what: str) -> AdapterFiles:
    """Return the adapter in a folder, or of the run whose folder it is.

    Raises:
        StageError: There is none, or none that can be merged.
    """
    inside = path / "adapter"
    is_run = not (path / adapter_files.CONFIG).is_file() and inside.is_dir()
    return adapter_files.read((inside if is_run else path).resolve(), what)


def check(base: Base, adapters: Sequence[Weighted]) -> list[str]:
    """Return notes on adapters whose base model is not known.

    Raises:
        StageError: One is of another model, or there is no weighted sum of them.
    """
    notes: list[str] = []
    for adapter in adapters:
        what = str(adapter.files.folder)
        notes += adapter_files.check_base(adapter.files, base.name, what, revision=base.revision)
        is_sum = len(adapters) > 1 or adapter.weight != 1
        if is_sum and (more := adapter.files.more_than_products):
            rule = f"{what}: has {more[0]}, which is no product of matrices, so that it has no weight in a sum"
            raise StageError(rule, fix="merge it alone, with the weight 1")
    return notes


def merge(base: Base, adapters: Sequence[Weighted], output: Path, progress: Progress) -> None:
    """Write the model.

    Args:
        base: The model.
        adapters: Of it, in the order in which they are added.
        output: The folder, which may not be there.
        progress: Told notes.

    Raises:
        StageError: `output` is there, the base is no whole model, or an adapter is not of it.
    """
    if output.exists():
        raise StageError(f"{output}: is there already", fix="name another folder, or move it away")
    model_checks.check_folder(base.folder, base.name)
    for note in check(base, adapters):
        progress.say(f"note: {note}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        target = Path(scratch) / "model"
        logs = Path(tempfile.mkdtemp(prefix="sft-merge-"))  # stays where a child fails, whose error names its log
        progress.update("comparing the weights with the architecture")
        request = {"folder": str(base.folder), "trust_remote_code": base.trust_remote_code}
        found = run_module("sft.adapters.architecture", request, folder=logs, what="checking the model")
        if found["unread"]:
            progress.say(f"note: {found['unread']}")
        progress.update("merging")
        into(base, adapters, target, logs=logs)
        write_json(target / RECORD, record(base, adapters))
        shutil.move(target, output)
        shutil.rmtree(logs)


def into(base: Base, adapters: Sequence[Weighted], target: Path, *, logs: Path) -> None:
    """Write base and adapters as one model into `target`, which is made.

    Raises:
        StageError: An adapter is not of this model.
    """
    target.mkdir(parents=True, exist_ok=True)
    request = {
        "folder": str(base.folder),
        "target": str(target),
        "adapters": [{"folder": str(each.files.folder), "weight": each.weight} for each in adapters],
        "trust_remote_code": base.trust_remote_code,
    }
    run_module(_MODULE, request, folder=logs, what="merging adapters")


def record(base: Base, adapters: Sequence[Weighted]) -> dict[str, object]:
    """Return what the model was made of, with the digest of every file that was read."""
    return {
        "schema": SCHEMA,
        "formula": "W + sum of weight * scale * B A",
        "base": {
            "name": base.name,
            "revision": base.revision,
            "files": {f.relative_to(base.folder).as_posix(): sha256_file(f) for f in files_of(base.folder)},
        },
        "adapters": [
            {
                "folder": str(each.files.folder),
                "weight": each.weight,
                "files": each.files.digests(),
                **{name: each.files.config.get(name) for name in ("r", "lora_alpha", "use_rslora", "use_dora")},
            }
            for each in adapters
        ],
        "packages": {name: version(name) for name in _PACKAGES},
    }
