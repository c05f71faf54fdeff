"""4-bit weights: what a parent asks llm-compressor, in an environment that a person names, and then the reader."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import CONFIG, read_json
from sft.adapters.export import compressed, gptq_worker
from sft.adapters.os.interpreter import answer, why_not
from sft.adapters.os.process import LOG, describe_exit, guarded, run_module, status_of_guarded, supervise, tail
from sft.errors import ConfigError, Problem, StageError
from sft.files import sha256_file, write_json
from sft.redaction import redact

SAMPLES = 128
"""Of the training rows, unless another number is asked for."""
MOST_TOKENS = 2048
"""Of each sample that are shown to the model: its first ones."""
SCORED_AS = (
    "the written folder, loaded by transformers with compressed-tensors: weights of 4 bits, "
    "computed in the type that the model is saved in"
)
_KEY = "--python"
_LESS = "fewer --calibration-samples, or a machine with more memory"
_VERSION = """\
import importlib.util as u, importlib.metadata as m
print(m.version("llmcompressor") if u.find_spec("llmcompressor") else "")
"""
_MAKE = "python -m venv llmc && llmc/bin/pip install llmcompressor, then --python llmc/bin/python"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Training samples on which rounding errors are made up for.

    Attributes:
        file: Of tokenized training samples, a line each with ``input_ids``.
        num_samples: How many are drawn; all, where there are fewer.
        seed: With which they are drawn.
    """

    file: Path
    num_samples: int
    seed: int

    def draw(self) -> tuple[list[list[int]], dict[str, Any]]:
        """Return token ids of each sample that is drawn, and what is known of them."""
        with self.file.open("rb") as lines:
            count = sum(1 for _ in lines)
        drawn = {*random.Random(self.seed).sample(range(count), min(count, self.num_samples))}
        with self.file.open("rb") as lines:
            samples = [json.loads(line)["input_ids"][:MOST_TOKENS] for i, line in enumerate(lines) if i in drawn]
        known = {
            "num_samples": len(samples),
            "of": count,
            "num_tokens": sum(map(len, samples)),
            "most_tokens": MOST_TOKENS,
            "seed": self.seed,
            "training_samples": f"sha256:{sha256_file(self.file)}",
        }
        return samples, known


def check(chosen: str, python: str | None, num_samples: int) -> str:
    """Check what can be known before anything is written, and return the version of llm-compressor.

    Args:
        chosen: What ``--type`` says.
        python: Interpreter of an environment with llm-compressor; None = not said.
        num_samples: Samples to calibrate with.

    Raises:
        ConfigError: An option is wrong, or there is no such environment.
        StageError: Our own extra is not installed.
    """
    compressed.check("int4", chosen)
    if num_samples < 1:
        raise ConfigError([Problem(key="--calibration-samples", value=str(num_samples), rule="must be at least 1")])
    if python is None:
        rule = (
            "is needed: --to int4 asks llm-compressor, which wants another transformers, in an environment of its own"
        )
        raise ConfigError([Problem(key=_KEY, rule=rule, suggestion=_MAKE)])
    fix = None
    try:
        if version := answer(Path(python), _VERSION):
            return version
        rule, fix = "its environment has no llm-compressor", f"{python} -m pip install llmcompressor"
    except (OSError, subprocess.TimeoutExpired, StageError) as error:
        rule = why_not(error, "llm-compressor")
    raise ConfigError([Problem(key=_KEY, value=python, rule=rule, suggestion=fix)])


def export(
    model_dir: Path,
    out: Path,
    work: Path,
    *,
    python: str,
    calibration: Calibration,
    trust_remote_code: bool,
    leave_out: Sequence[str],
    held_out: Sequence[dict[str, str]],
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a model with 4-bit weights (W4A16), and read it back.

    Args:
        model_dir: In Hugging Face layout.
        out: Folder that gets the same.
        work: Private folder.
        python: Interpreter of an environment with llm-compressor.
        calibration: Samples on which rounding errors are made up for.
        trust_remote_code: Whether the model's own code may run.
        leave_out: Names of files that tell of the original.
        held_out: Sets of conversations, each with ``name`` and ``file``, on which prompt tokens are compared.
        tell: Called with what is waited for.

    Raises:
        StageError: The model is quantised already, can't be written so, or is not read back as it was written.
    """
    if "quantization_config" in read_json(model_dir / CONFIG):
        raise StageError("--to int4: the model is quantised already", fix="export what it was made of")
    samples, known = calibration.draw()
    written = work / "written"
    asked = {
        "model_dir": str(model_dir),
        "out": str(written),
        "samples": samples,
        "seed": calibration.seed,
        "trust_remote_code": trust_remote_code,
    }
    made = _run_worker(python, asked, work / "gptq", tell)
    read = {
        "model_dir": str(model_dir),
        "written": str(written),
        "out": str(out),
        "group_size": made["group_size"],
        "trust_remote_code": trust_remote_code,
        "leave_out": [*leave_out],
        "held_out": [*held_out],
    }
    module = "sft.adapters.export.int4_reader"
    return {**made, "calibration": known, **run_module(module, read, folder=work / "reader", what="reading int4 back")}


def command(python: str, folder: Path) -> list[str]:
    """Return what answers the request in a folder. ``-I`` keeps our PYTHONPATH and the working folder out of it."""
    return guarded([python, "-I", gptq_worker.__file__, str(folder)])


def _run_worker(python: str, asked: Mapping[str, Any], folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run GPTQ in its own environment.

    Raises:
        StageError: It failed.
    """
    folder.mkdir(parents=True)
    write_json(folder / "request.json", asked)
    began, log = time.monotonic(), folder / LOG
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # all it needs is in the folders
    what = f"GPTQ with {len(asked['samples'])} samples"
    status = supervise(
        command(python, folder), log=log, env=env, poll=lambda: tell(f"{what}, {time.monotonic() - began:.0f} s")
    )
    if status == 0 and (folder / "result.json").is_file():
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result
    if (folder / "error.json").is_file():
        raise _failure(json.loads((folder / "error.json").read_text(encoding="utf-8")))
    status = status_of_guarded(status)
    fix = _LESS if status == -signal.SIGKILL else None
    raise StageError(f"llm-compressor {describe_exit(status)}; its last lines:\n{tail(log)}", fix=fix)


def _failure(error: Mapping[str, Any]) -> StageError:
    """Return the worker's error in a sentence, and what may help."""
    message = redact(str(error["message"])).strip()
    if error.get("expected"):
        return StageError(f"--to int4: {message}", fix="another format: --to int8, or gguf with --type q8_0")
    message = f"{error['type']}: {message.splitlines()[0]}" if message else error["type"]
    fix = "another version of llmcompressor in that environment, or another format: --to int8"
    if error["type"] in ("MemoryError", "OutOfMemoryError"):
        fix = _LESS
    return StageError(f"llm-compressor failed: {message}", fix=fix)
