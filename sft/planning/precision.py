"""Decide bf16 or fp32: on a GPU by its compute capability, on this machine's CPU by a timing.

A CPU that has instructions for bf16 may still be slower with them, so `measure_cpu` times the model's own matrix
products once and keeps the result in the run root. What was kept is read from then on: another load of the machine does
not make another choice, and so not another key.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import filelock
import msgspec

from sft.adapters.os import machine
from sft.adapters.os.process import run_module
from sft.config.schema import Precision, RunConfig, TrainingConfig
from sft.errors import StageError
from sft.files import write_json
from sft.planning.choices import Choices
from sft.planning.devices import num_gpus
from sft.planning.model_config import fetch_model_config
from sft.planning.model_shape import Shape, shape_of
from sft.scratch import scratch
from sft.self_hashed_json import NOT_JSON

log = logging.getLogger(__name__)

_CHILD = "sft.adapters.os.matmul_timing"

CPU_TOKENS = 2048
"""Tokens of a minibatch on a CPU unless the recipe says otherwise."""
_MEASURED_PARAMETERS = 1_000_000
"""Smaller models are not timed: their casts and calls take the time, not their products (docs/backend.md)."""
_BF16_WINS_BELOW = 0.9
"""Share of fp32's time; what is nearer than that is not worth the digits."""
_TYPICAL_MATMULS = [(1024, 1024, 4.0), (1024, 4096, 2.0), (4096, 1024, 1.0)]
"""A layer's products where the architecture's own are not known."""


@dataclass(frozen=True, kw_only=True)
class CpuTiming:
    """Seconds that a minibatch's matrix products take a core of this CPU, by precision.

    Attributes:
        rows: Tokens that were timed.
        training: Forward and backward pass, casts of weights and gradients included.
        note: What is to be said about it besides; empty as a rule.
    """

    rows: int
    training: dict[str, float]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class CpuPrecision:
    """What ``precision: auto`` is on this machine's CPU, and why."""

    precision: Precision
    reason: str


def choose_cpu_precision(cfg: RunConfig) -> CpuPrecision | None:
    """Return what ``auto`` becomes on this machine's CPU; None where something else decides.

    Raises:
        DataError: The model's config is on the hub and can't be fetched.
        StageError: The timing failed.
    """
    launcher = cfg.training.launcher
    if launcher.is_remote or num_gpus(launcher) or cfg.training.precision is not Precision.auto:
        return None
    if launcher.num_workers > 1:
        return CpuPrecision(precision=Precision.fp32, reason="several machines must agree, and any CPU computes fp32")
    config = fetch_model_config(cfg.model)
    if config is None:  # the model stage says so
        return CpuPrecision(precision=Precision.fp32, reason="not timed: the model has no config.json")
    shape = shape_of(config)
    if shape and shape.num_parameters < _MEASURED_PARAMETERS:
        return CpuPrecision(precision=Precision.fp32, reason="the faster one for a model of under 1 million parameters")
    if _torch_version() is None:
        return CpuPrecision(precision=Precision.fp32, reason="torch is not installed here, so nothing was timed")
    timing = measure_cpu(Path(cfg.run_root), shape)
    fp32, bf16 = timing.training["fp32"], timing.training["bf16"]
    precision = Precision.bf16 if bf16 < _BF16_WINS_BELOW * fp32 else Precision.fp32
    whose = "the model's" if shape else "typical"
    seconds = f"{_digits(fp32)} s in fp32, {_digits(bf16)} s in bf16 on a core"
    reason = f"timed here: {whose} matrix products take {seconds}{timing.note}"
    return CpuPrecision(precision=precision, reason=reason)


def _digits(seconds: float) -> str:
    """Return a figure with two digits: 0.043, 0.43, 4.3."""
    return f"{seconds:.{max(0, 1 - math.floor(math.log10(seconds)))}f}"


def resolve_precision(cfg: TrainingConfig, on_cpu: CpuPrecision | None, choices: Choices, *, on_gpu: bool) -> Precision:
    """Return the precision of forward and backward pass, never auto.

    Args:
        cfg: The training settings.
        on_cpu: What `choose_cpu_precision` says; None = fp32 on a CPU.
        choices: Gets the reason.
        on_gpu: Whether a GPU trains, here or in a pod.
    """
    if cfg.precision is not Precision.auto:
        _note_emulated(cfg, choices, on_gpu=on_gpu)
        return cfg.precision
    if on_gpu:
        fast, reason = True, "the cluster's GPUs are taken to compute it"
        if not cfg.launcher.is_remote:
            major, minor = machine.compute_capability()
            fast, reason = major >= 8, f"this GPU's compute capability is {major}.{minor}, bf16 needs 8.0"
        choices.because("precision", reason)
        return Precision.bf16 if fast else Precision.fp32
    if cfg.launcher.is_remote:  # nothing is known of a pod's CPU
        on_cpu = CpuPrecision(precision=Precision.fp32, reason="any CPU of the cluster computes it")
    choices.because("precision", on_cpu.reason if on_cpu else "any CPU computes it")
    return on_cpu.precision if on_cpu else Precision.fp32


def _note_emulated(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> None:
    if cfg.precision is not Precision.bf16 or cfg.launcher.is_remote:
        return
    if not (machine.compute_capability()[0] >= 8 if on_gpu else machine.cpu_computes_bf16()):
        what = "this GPU" if on_gpu else "this CPU"
        choices.notes.append(f"training.precision=bf16: {what} emulates it, slowly; auto takes what is faster")


def measure_cpu(run_root: Path, shape: Shape | None) -> CpuTiming:
    """Return the timing that the run root keeps of this machine and such a model, made now if there is none.

    Args:
        run_root: Its ``timings/`` keeps them. Where it can't be read or written, each call times anew, and says so.
        shape: The model's; None = a typical layer.

    Raises:
        StageError: The timing failed, or a kept one can't be read.
    """
    matmuls = _matmuls(shape) if shape else _TYPICAL_MATMULS
    facts = {"cpu": machine.cpu(), "torch": _torch_version(), "matmuls": matmuls}
    key = hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:20]
    folder = run_root / "timings"
    file, lock = folder / f"{key}.json", filelock.FileLock(folder / f".{key}.lock")
    try:
        if file.exists():
            return _read(file)
        folder.mkdir(parents=True, exist_ok=True)
        with lock:
            if not file.exists():  # of two runs, the second reads what the first has timed
                timing = _timed(matmuls, folder / f".{key}")
                write_json(file, {**facts, **asdict(timing)})
        return _read(file)
    except OSError as error:
        note = f" (not kept, because {folder} can't be used: {error.strerror})"
        with scratch("timing") as own:
            return replace(_timed(matmuls, own / "log"), note=note)


def _timed(matmuls: list[tuple[int, int, float]], folder: Path) -> CpuTiming:
    log.info("timing fp32 against bf16 on this CPU, once for such a model and machine")
    request = {"matmuls": matmuls, "tokens": CPU_TOKENS}
    try:
        result = run_module(_CHILD, request, folder=folder, what="timing fp32 against bf16")
    except StageError as error:
        error.fix = "training.precision=fp32 or bf16, which needs no timing"
        raise
    shutil.rmtree(folder)
    return CpuTiming(**result)


def _read(file: Path) -> CpuTiming:
    try:
        return msgspec.json.decode(file.read_bytes(), type=CpuTiming)
    except NOT_JSON as error:
        raise StageError(f"{file}: not a timing ({error})", fix=f"rm {shlex.quote(str(file))}") from error


def _matmuls(shape: Shape) -> list[tuple[int, int, float]]:
    """Return features in, features out and how often a pass has it, of each of a model's matrix products."""
    hidden, layers = shape.hidden_size, shape.num_layers
    into_ffn = 2.0 if shape.family.gated else 1.0
    return [
        (hidden, shape.query_width, layers),
        (hidden, shape.key_width, 2.0 * layers),
        (shape.query_width, hidden, layers),
        (hidden, shape.ffn_width, into_ffn * layers),
        (shape.ffn_width, hidden, layers),
        (hidden, shape.vocab_size, 1.0),
    ]


def _torch_version() -> str | None:
    """Return torch's version without importing it; None if it is not installed."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None
