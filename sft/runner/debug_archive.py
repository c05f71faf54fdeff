"""One archive of a run for an issue: what was asked for, what happened, where; no secret, no row, no answer."""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sft import record
from sft.adapters.os import machine
from sft.artifacts import CheckpointArtifact
from sft.config.ways_out import value_of
from sft.errors import DataError, SftError
from sft.redaction import redact, redacted
from sft.runner.data_texts import DataTexts, as_json, texts_of
from sft.runner.run_models import artifacts_of

_LOG_BYTES = 4 << 20
_DATA_BYTES = 256 << 20
_SETTINGS_OF_THE_MACHINE = ("CUDA_", "NCCL_", "TORCH_", "OMP_", "HF_HUB_", "HF_HOME", "PYTORCH_", "TOKENIZERS_", "PET_")
_DATA_STEPS = ("dataset", "tokenize", "evaluate", "compare", "judge")
_NUMBERS = {"data.jsonl", "values.jsonl"}
"""Files of tokens and scores, without a text."""
_README = """\
An archive of `sft debug` for an issue.

record.json    run.json: command, settings, versions, machine, steps with keys, digests and errors
config.yaml    every setting
steps.txt      the plan: what was done, reused, failed, and how long each step took
run.log        the run's own log, its last {log_mib} MiB
metrics.jsonl  numbers of each optimizer step, where the run trained
files.txt      names and sizes of what each step made
versions.txt   every installed distribution, as of now
machine.json   the machine, as of now

Secrets that this machine knows are masked, the home folder is written as ~. Taken out are long quotations, and what has
four words in a row in common with the run's data, with rows that were refused, or with a model's answers. Logs of
libraries, rows, answers and weights are not in it. Look at it before you send it.
{notes}"""


@dataclass(frozen=True)
class DebugArchive:
    """What was written.

    Attributes:
        file: The archive.
        names: Of the files in it.
        notes: What a person should know of it.
    """

    file: Path
    names: tuple[str, ...]
    notes: tuple[str, ...]


def debug_archive(run: Path, target: Path) -> DebugArchive:
    """Write the archive of a run.

    Args:
        run: The run's folder.
        target: The archive, which must not be there yet.

    Raises:
        DataError: There is no run in the folder.
        SftError: The archive is there already, or can't be written.
    """
    run_record = record.load(run)
    if run_record is None:
        raise DataError(
            f"{run}: no {record.NAME} that this version of sft reads", fix=record.nearest_run(run, "a run's folder")
        )
    facts: dict[str, Any] = msgspec.to_builtins(run_record)
    log = _last_bytes(run / "run.log", _LOG_BYTES)
    texts = DataTexts([*texts_of(facts), log])
    skipped = texts.read(_data_files(run, run_record), _DATA_BYTES)
    notes = [f"{skipped >> 20} MiB of data were not looked through"] if skipped else []
    facts, log = texts.tree_without(facts), texts.without(log)
    contents = {
        "record.json": as_json(facts),
        "config.yaml": yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True),
        "steps.txt": "".join(f"{line}\n" for line in _step_lines(facts)),
        "run.log": log,
        "files.txt": "".join(f"{line}\n" for line in _file_lines(run, run_record)),
        "versions.txt": "".join(f"{line}\n" for line in _version_lines()),
        "machine.json": as_json(_machine(run)),
    }
    checkpoint = artifacts_of(run, run_record).get("train")
    if isinstance(checkpoint, CheckpointArtifact) and checkpoint.metrics_file.is_file():
        contents["metrics.jsonl"] = _last_bytes(checkpoint.metrics_file, _LOG_BYTES)
    listed = "".join(f"\n{note}." for note in notes)
    contents["README.txt"] = _README.format(log_mib=_LOG_BYTES >> 20, notes=listed)
    _write(target, run.absolute().name, {name: _cleaned(text) for name, text in contents.items()})
    return DebugArchive(target, tuple(contents), tuple(notes))


def _cleaned(text: str) -> str:
    """Return a text without secrets and without the name of the person's home folder."""
    home = str(Path.home())
    text = redact(text)
    return text.replace(home, "~") if len(home) > 1 else text


def _write(target: Path, folder: str, contents: Mapping[str, str]) -> None:
    try:
        with target.open("xb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in contents.items():
                content = text.encode("utf-8", errors="backslashreplace")
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
    except FileExistsError as error:
        raise SftError(f"{target} is there already", fix="--output OTHER.tar.gz, or remove it") from error
    except OSError as error:
        raise SftError(f"{target} can't be written: {error.strerror}", fix="--output OTHER.tar.gz") from error


def _last_bytes(file: Path, most: int) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
        return stream.read().decode("utf-8", errors="backslashreplace")


def _data_files(run: Path, run_record: record.RunRecord) -> list[Path]:
    """Return the files with rows and answers: what the steps made of them, and a local source."""
    files = []
    for name, artifact in artifacts_of(run, run_record).items():
        if name.partition(":")[0] in _DATA_STEPS:
            found = artifact.root.rglob("*.jsonl")
            files += [file for file in found if file.name not in _NUMBERS]
    for key in ("dataset.uri", "dataset.eval_uri"):
        source = Path(str(value_of(run_record.config, key) or ""))
        place = Path(run_record.cwd) / source
        if source.name and place.is_file():
            files.append(place)
    staging = run.absolute().parent / "store" / ".staging"
    return [*files, *(file for file in staging.glob("dataset*/*.jsonl") if file.is_file())]


def _step_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['run_id']}: {facts['status']}, {facts['started_at']} to {facts['ended_at'] or '?'}"
    for step in facts["steps"]:
        seconds = "" if step["seconds"] is None else f"{step['seconds']:10.1f} s"
        reused = "  reused" if step["reused"] else ""
        yield f"{step['name']:<20}{step['status']:<12}{seconds:<12}{step['key'] or ''}{reused}"
        if step["error"]:
            yield from (f"    {line}" for line in step["error"].splitlines())


def _file_lines(run: Path, run_record: record.RunRecord) -> Iterator[str]:
    for name, artifact in artifacts_of(run, run_record).items():
        for file in sorted(path for path in artifact.root.rglob("*") if path.is_file()):
            yield f"{name:<20}{file.stat().st_size:>15,}  {file.relative_to(artifact.root)}"


def _version_lines() -> list[str]:
    installed = {f"{each.name}=={each.version}" for each in metadata.distributions()}
    return [f"python {sys.version}", *sorted(installed, key=str.lower)]


def _machine(run: Path) -> dict[str, Any]:
    disk = shutil.disk_usage(run)
    facts = {
        "platform": platform.platform(),
        "cpu": machine.cpu(),
        "memory_bytes": machine.host_total_bytes(),
        "memory_free_bytes": machine.host_bytes(),
        "gpus": list(machine.gpus()),
        "gpu_trouble": machine.gpu_trouble(),
        "gpu_memory_bytes": machine.gpu_total_bytes(),
        "gpu_memory_free_bytes": machine.gpu_bytes(),
        "disk_free_bytes": disk.free,
        "disk_bytes": disk.total,
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS_OF_THE_MACHINE)
        },
    }
    return redacted(facts)
