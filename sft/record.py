"""Owns ``run.json``: the provenance of a run, whole after every stage.

What made the model stands here: the resolved configuration, the command, versions, machine, and each step's
inputs and outputs with their sha256 digests. Secrets are masked. Knows nothing of how stages work.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from sft import DISTRIBUTION, __version__, self_hashed_json
from sft.adapters.os.cgroup import num_cpus
from sft.config.nearest import nearest_word
from sft.errors import StageError
from sft.files import NO_SPACE, read_document, write_atomically
from sft.redaction import redacted

log = logging.getLogger(__name__)

SCHEMA = 1
NAME = "run.json"
_RESERVE = ".reserve"
_RESERVED_BYTES = 1 << 19
"""More than a record takes, of which a second is written before the first is replaced."""
_LASTING = ("name", "key", "started_at", "seconds", "inputs", "output", "files", "facts", "settings")
"""What is true of a step in every run that uses its artifact."""
Status = Literal["pending", "running", "done", "failed", "interrupted"]

_PACKAGES = (
    "torch", "instructlab-training", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes", "flash-attn",
    "liger-kernel", "datasets", "lm-eval", "rouge-score", "sacrebleu", "mlflow", "model-registry", "hydra-core",
    "omegaconf", "numpy",
)  # fmt: skip


class StepRecord(msgspec.Struct, kw_only=True):
    """One step of a run.

    Attributes:
        reused: Whether an earlier run had made it; `seconds` is then what it took there.
        inputs: Digest of each input artifact by step.
        output: Digest of what it made.
        path: Where that lies.
        files: sha256 of each of its files.
        facts: The artifact's own fields.
        settings: What, besides the inputs, determined what it made: settings, versions of packages, the source's state.
        error: Why it failed.
    """

    name: str
    status: Status = "pending"
    reused: bool = False
    key: str | None = None
    started_at: str | None = None
    seconds: float | None = None
    inputs: dict[str, str] = {}
    output: str | None = None
    path: str | None = None
    files: dict[str, str] = {}
    facts: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    error: str | None = None


class RunRecord(msgspec.Struct, kw_only=True):
    """``run.json``.

    Attributes:
        run_id: Name of the run's folder.
        recipe: Path of the recipe.
        command: What was typed.
        config: Every setting, resolved.
        git_commit: Commit of the folder the command ran in, ``-dirty`` with changes; None outside a repository.
        versions: Package -> version.
        resources: What the training runs on and with: value and reason by name; empty where nothing is trained.
    """

    schema: int = SCHEMA
    run_id: str
    status: Status
    recipe: str
    command: list[str]
    cwd: str
    started_at: str
    ended_at: str | None = None
    config: dict[str, Any]
    git_commit: str | None
    versions: dict[str, str]
    machine: dict[str, Any]
    resources: dict[str, Any] = {}
    steps: list[StepRecord]

    def step(self, name: str) -> StepRecord:
        """Return the step of that name."""
        return next(step for step in self.steps if step.name == name)

    @contextmanager
    def noting(self, name: str, folder: Path) -> Iterator[None]:
        """Keep a step's status in the file, however the step ends.

        Raises:
            StageError: In place of an `OSError`, which says nothing of the step: no space, no permission.
        """
        note = self.step(name)
        note.status, note.started_at = "running", now()
        self.save(folder)
        try:
            yield
            note.status = "done"
        except KeyboardInterrupt:
            note.status = self.status = "interrupted"
            raise
        except OSError as error:
            note.status = self.status = "failed"
            note.error = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)
            raise StageError(f"{name}: {note.error}", fix="free space or mend permissions, then repeat") from error
        except BaseException as error:
            note.status, self.status, note.error = "failed", "failed", str(error)
            log.exception("%s failed", name)
            raise
        finally:
            self.save(folder)

    def until(self, name: str) -> dict[str, Any]:
        """Return this run and its steps before the one of that name, as they may leave this machine.

        Secrets are masked, and folders of this machine are left out.
        """
        facts: dict[str, Any] = redacted(msgspec.to_builtins(self))
        before = [step.name for step in self.steps].index(name)
        steps = [{key: value for key, value in step.items() if key in _LASTING} for step in facts["steps"][:before]]
        rest = {key: value for key, value in facts.items() if key not in {"status", "ended_at", "cwd"}}
        return {**rest, "recipe": Path(self.recipe).name, "steps": steps}

    def save(self, folder: Path) -> None:
        """Write ``run.json`` with its own digest (`sft.self_hashed_json`): a reader sees the last whole one.

        Raises:
            StageError: The folder was moved, removed, filled or made read-only.
        """
        content = self_hashed_json.dump_with_digest(redacted(msgspec.to_builtins(self)))
        try:
            try:
                write_atomically(folder / NAME, content, is_lasting=True)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                (folder / _RESERVE).unlink(missing_ok=True)
                write_atomically(folder / NAME, content, is_lasting=True)
        except OSError as error:
            why = "the folder was moved, removed, filled or made read-only while the run was at work"
            raise StageError(
                f"{folder / NAME}: can't be written ({error.strerror}): {why}",
                fix="put that right, then repeat the command: it goes on with what is in the store",
            ) from error


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep some space until the block ends, so that the record of a run can be written on a disk that is full.

    Raises:
        StageError: It is full already.
    """
    file = folder / _RESERVE
    try:
        file.write_bytes(bytes(_RESERVED_BYTES))
    except OSError as error:
        file.unlink(missing_ok=True)
        if error.errno not in NO_SPACE:
            raise
        message = f"{folder}: no room for the record of a run, which was not begun ({error.strerror})"
        raise StageError(message, fix="free space, then repeat the command") from error
    try:
        yield
    finally:
        with suppress(OSError):  # where the folder can't be written any more, the record itself has said so
            file.unlink(missing_ok=True)


def begin(
    *,
    run_id: str,
    recipe: Path,
    command: Sequence[str],
    config: dict[str, Any],
    gpus: Sequence[str],
    resources: dict[str, Any],
    steps: Sequence[str],
) -> RunRecord:
    """Return the record of a run that starts here and now."""
    return RunRecord(
        run_id=run_id,
        status="running",
        recipe=str(recipe),
        command=list(command),
        cwd=str(Path.cwd()),
        started_at=now(),
        config=config,
        git_commit=git_commit(Path.cwd()),
        versions=versions(),
        machine={**machine(), "gpus": list(gpus)},
        resources=resources,
        steps=[StepRecord(name=name) for name in steps],
    )


def load(folder: Path) -> RunRecord | None:
    """Return the record in a run's folder; None if there is none that this version can read."""
    try:
        return msgspec.json.decode(read_document(folder / NAME), type=RunRecord)
    except (FileNotFoundError, NotADirectoryError, *self_hashed_json.NOT_JSON):
        return None


def nearest_run(path: Path, otherwise: str) -> str:
    """Return what to try where `path` holds no run: the run beside it whose name is nearest, else `otherwise`."""
    meant = None if path.is_dir() else nearest_word(path.name, (run.name for run in _runs_in(path.parent)))
    return f"did you mean {path.parent / meant}?" if meant else otherwise


def is_beside_runs(path: Path) -> bool:
    """Return whether the folder that `path` would lie in holds runs."""
    return any(_runs_in(path.parent))


def _runs_in(folder: Path) -> Iterator[Path]:
    return (file.parent for file in folder.glob(f"*/{NAME}"))


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str]:
    """Return the installed version of every package that takes part, by distribution; Python and sft first."""
    found = {"python": platform.python_version(), DISTRIBUTION: __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """Return the commit of the repository around a folder, ``-dirty`` if tracked files differ; None outside of one."""
    try:
        git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
        answer = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def machine() -> dict[str, Any]:
    """Return where a run runs."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": num_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
