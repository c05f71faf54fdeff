"""Owns what the driver's ``nvidia-smi`` says of GPUs, and which of them a process sees. It doesn't import torch.

`machine` tells the rest of sft of them. Not covered: GPUs of other makers, of which ``nvidia-smi`` doesn't know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache

from sft.errors import SftError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SMI_SECONDS = 60.0
"""How long the driver may take to answer: it starts each GPU that is not at work, without persistence mode."""
_NO_DEVICE = 6
"""Its exit status where it finds no GPU."""
_FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.free", "mig.mode.current")
_GPU_LINE = re.compile(r"GPU (\d+): ")
_PART_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")
_PART_GB = re.compile(r"\.(\d+)gb")
_UNKNOWN = re.compile(r"\[.*\]")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA device.

    Attributes:
        id: As ``CUDA_VISIBLE_DEVICES`` names it.
        uuid: Unique in the world.
        name: Of its model; of a part of one (MIG), with the part's profile.
        capability: CUDA's compute capability.
        total_bytes: Its memory.
        free_bytes: What of it nobody uses now; of a part, its whole memory, because the driver doesn't say.
        is_divided: Whether it is in MIG mode, where a process sees one part of it, not itself.
    """

    id: str
    uuid: str
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    is_divided: bool = False


@cache
def visible() -> tuple[Gpu, ...]:
    """Return the CUDA devices that a process started here sees, in its order.

    Raises:
        SftError: The driver's program doesn't answer, or something that is not understood.
    """
    gpus = installed()
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return _without_more_parts([_part_or_whole(gpu, gpu.id) for gpu in gpus])
    found: list[Gpu | None] = []
    for entry in (part.strip() for part in chosen.split(",")):
        gpu = _named(entry, gpus)
        if gpu is None or gpu in found:
            break  # CUDA ignores what comes after an id that it doesn't know
        found.append(gpu)
    return _without_more_parts(found)


@cache
def installed() -> tuple[Gpu, ...]:
    """Return every GPU of this machine, whoever sees it; empty if there is none, or no driver.

    Raises:
        SftError: As `visible`.
    """
    status, text = ask(f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    return tuple(_gpu(line) for line in text.splitlines() if line.strip()) if status == 0 else ()


@cache
def trouble() -> str:
    """Return why the driver's program fails although it is there; empty if it works, finds no GPU, or isn't there."""
    status, text = ask("--query-gpu=index", "--format=csv,noheader")
    if status in (None, 0, _NO_DEVICE):
        return ""
    return " ".join(text.split())[:300] or f"nvidia-smi ended with status {status}"


def ask(*arguments: str) -> tuple[int | None, str]:
    """Return the exit status and the output of the driver's program; None = there is none.

    Raises:
        SftError: It doesn't answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, ""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=SMI_SECONDS, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise SftError(
            f"{program} has not answered in {SMI_SECONDS:g} s, so it is not known which GPUs are here",
            fix="run it by hand; `nvidia-smi -pm 1` (persistence mode) makes it fast, a GPU that hangs needs a reset",
        ) from error
    return done.returncode, done.stdout + done.stderr


def forget() -> None:
    """Ask the driver again next time."""
    for known in (visible, installed, trouble, _parts):
        known.cache_clear()


def _gpu(line: str) -> Gpu:
    values = [value.strip() for value in line.split(",")]
    try:
        index, uuid, name, capability, total, free, mode = values
        major, _, minor = capability.partition(".")
        number = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
        return Gpu(
            id=str(int(index)),
            uuid=uuid,
            name=name,
            capability=number,
            total_bytes=_mebibytes(total),
            free_bytes=_mebibytes(free),
            is_divided=mode == "Enabled",
        )
    except ValueError as error:
        raise SftError(
            f"nvidia-smi says {line!r} of a GPU, which is not understood", fix="update the driver"
        ) from error


def _mebibytes(text: str) -> int:
    """Return bytes; 0 where the driver doesn't know, as of a GPU that shares the host's memory."""
    return 0 if _UNKNOWN.fullmatch(text) else int(text) << 20


@cache
def _parts() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the parts of each divided GPU by its index: profile and id."""
    found: dict[str, list[tuple[str, str]]] = {}
    index = ""
    for line in ask("-L")[1].splitlines():
        if match := _GPU_LINE.match(line):
            index = match[1]
        elif match := _PART_LINE.match(line):
            found.setdefault(index, []).append((match[1], match[2]))
    return {name: tuple(parts) for name, parts in found.items()}


def _part(gpu: Gpu, profile: str, uuid: str) -> Gpu:
    gigabytes = _PART_GB.search(profile)
    size = int(gigabytes[1]) * 10**9 if gigabytes else 0
    return replace(gpu, id=uuid, uuid=uuid, name=f"{gpu.name} MIG {profile}", total_bytes=size, free_bytes=size)


def _part_or_whole(gpu: Gpu, name: str) -> Gpu | None:
    """Return what CUDA gives to a process that sees a GPU: of a divided one, its first part."""
    if not gpu.is_divided:
        return replace(gpu, id=name)
    parts = _parts().get(gpu.id, ())
    return _part(gpu, *parts[0]) if parts else None


def _named(entry: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    if entry.startswith("MIG-"):
        matches = [
            _part(gpu, profile, uuid)
            for gpu in gpus
            for profile, uuid in _parts().get(gpu.id, ())
            if uuid.startswith(entry)
        ]
        return matches[0] if len(matches) == 1 else None
    named = [gpu for gpu in gpus if gpu.id == entry or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))]
    return _part_or_whole(named[0], entry) if len(named) == 1 else None


def _without_more_parts(found: list[Gpu | None]) -> tuple[Gpu, ...]:
    """Return the first part alone: CUDA shows a process one of them, and NCCL knows none."""
    devices = [gpu for gpu in found if gpu is not None]
    parts = [gpu for gpu in devices if gpu.is_divided]
    return tuple(parts[:1] if parts and parts[0] is devices[0] else [gpu for gpu in devices if not gpu.is_divided])
