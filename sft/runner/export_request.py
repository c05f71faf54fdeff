"""What a person asks of an export, and what of it is known to be wrong before the run is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from sft.adapters.export import compressed, gguf, int4
from sft.errors import ConfigError, Problem
from sft.runner import export_kserve as kserve
from sft.stages.export_card import ExportFormat


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        output: Folder that is made.
        kind: Type of the numbers; ``auto`` = as the weights are saved.
        keep: Whether an export that misses a gate is kept, marked as failed.
        llama_quantize: Path of llama.cpp's program that makes some types; None = the one in PATH.
        python: Interpreter of an environment with llm-compressor; None = not said.
        calibration_samples: Training samples that llm-compressor is shown; None = the default.
        serving: What the cluster gives the server; None = nothing was said.
    """

    format: ExportFormat
    output: Path
    kind: str = "auto"
    keep: bool = False
    llama_quantize: str | None = None
    python: str | None = None
    calibration_samples: int | None = None
    serving: kserve.Serving | None = None

    @property
    def num_samples(self) -> int:
        """Return how many training samples llm-compressor is shown."""
        return int4.SAMPLES if self.calibration_samples is None else self.calibration_samples


def check_request(request: ExportRequest) -> None:
    """Check what can be known before the run is looked at.

    Raises:
        ConfigError: An option is wrong, or is of another format.
        StageError: An extra is not installed.
    """
    _refuse_options_of_others(request)
    match request.format:
        case ExportFormat.gguf | ExportFormat.ollama:
            gguf.check(request.kind, request.llama_quantize)
        case ExportFormat.fp8 | ExportFormat.int8:
            compressed.check(request.format.value, request.kind)
        case ExportFormat.int4:
            int4.check(request.kind, request.python, request.num_samples)
        case ExportFormat.kserve:
            if request.kind != "auto" or request.keep:
                key = "--keep" if request.keep else "--type"
                rule = "does nothing: the run's own files are served, which passed its gates"
                raise ConfigError([Problem(key=key, rule=rule, suggestion="leave it out")])
            kserve.check(request.serving or kserve.Serving())
        case never:
            assert_never(never)


def _refuse_options_of_others(request: ExportRequest) -> None:
    """Refuse options that the format doesn't read."""
    to = f"--to {request.format.value}"
    problems = []
    if request.serving and request.format is not ExportFormat.kserve:
        rule = f"describe a server in a cluster, and {to} makes files"
        options = "--namespace, --runtime, --secret, --service-account, --storage-key, --gpus, --cpu, --memory"
        problems.append(Problem(key=options, rule=rule, suggestion="leave them out"))
    if request.llama_quantize is not None and request.format not in (ExportFormat.gguf, ExportFormat.ollama):
        rule = f"does nothing: {to} writes no GGUF file"
        key = "--llama-quantize"
        problems.append(Problem(key=key, value=request.llama_quantize, rule=rule, suggestion="leave it out"))
    of_int4 = {"--python": request.python, "--calibration-samples": request.calibration_samples}
    for key, value in of_int4.items():
        if value is not None and request.format is not ExportFormat.int4:
            rule = f"does nothing: {to} asks no llm-compressor"
            problems.append(Problem(key=key, value=str(value), rule=rule, suggestion="leave it out"))
    if problems:
        raise ConfigError(problems)
