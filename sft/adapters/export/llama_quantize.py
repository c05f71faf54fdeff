"""llama.cpp's own ``llama-quantize``, a person's program, which makes GGUF files of fewer bits than Python writes."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os import cgroup
from sft.adapters.os.process import describe_exit, guarded, status_of_guarded, supervise, tail
from sft.errors import ConfigError, Problem, StageError
from sft.files import sha256_file

PROGRAM = "llama-quantize"
TYPES = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q4_0", "q4_1", "q5_0", "q5_1"
)  # fmt: skip
"""What it makes without an importance matrix, and gguf reads back to be scored; `gguf.LlamaFileType` has the same."""
_HOW = "its releases have it (github.com/ggml-org/llama.cpp), or `cmake --build build --target llama-quantize` there"
_BLOCK = re.compile(r"blk\.\d+\.|\.weight$")
_K_QUANTS = ("_k", "_k_s", "_k_m", "_k_l")
"""Ends of their names."""
_WIDTH, _K_WIDTH = 32, 256
"""Values of a block, and of one of K-quants (ggml-common.h, QK4_0 and QK_K)."""


@dataclass(frozen=True)
class Program:
    """A ``llama-quantize`` of a person's.

    Attributes:
        file: Where it is.
        sha256: Of the file, as it has no version that it always tells.
    """

    file: Path
    sha256: str


def find(kind: str, given: str | None) -> Program:
    """Return the program that makes a type.

    Args:
        kind: One of `TYPES`.
        given: Path of it; None = the one in PATH.

    Raises:
        ConfigError: It is not there, or is no program.
    """
    found = given if given is not None else shutil.which(PROGRAM)
    if found is None:
        rule = f"is made by llama.cpp's program {PROGRAM}, which is not in PATH"
        raise ConfigError([Problem(key="--type", value=kind, rule=rule, suggestion=f"{_HOW}; then --{PROGRAM} PATH")])
    file = Path(found)
    if not file.is_file() or not os.access(file, os.X_OK):
        rule = "is no program that may be run" if file.exists() else "is not there"
        raise ConfigError([Problem(key=f"--{PROGRAM}", value=found, rule=rule, suggestion=_HOW)])
    return Program(file.absolute(), sha256_file(file))


def quantise(
    program: Program, source: Path, target: Path, kind: str, log: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Make a GGUF file of fewer bits.

    Args:
        program: What makes it.
        source: GGUF file in f32, f16 or bf16.
        target: File to make.
        kind: One of `TYPES`.
        log: The program's output.
        tell: Called about four times a second with what is waited for.

    Returns:
        What is known of the program.

    Raises:
        StageError: It failed; the message holds its last lines.
    """
    began = time.monotonic()
    argv = guarded([str(program.file), str(source), str(target), kind.upper(), str(cgroup.num_cpus())])
    status = status_of_guarded(
        supervise(argv, log=log, poll=lambda: tell(f"{PROGRAM} {kind}, {time.monotonic() - began:.0f} s"))
    )
    if status or not target.is_file():
        how = describe_exit(status) if status else "has written no file"
        fix = f"see what it says, or try another version of {PROGRAM}; --type q8_0 is written without it"
        raise StageError(f"{PROGRAM} {how}; its last lines:\n{tail(log)}", fix=fix)
    built = re.search(r"build\s*[=:]\s*(\d+ \(\w+\))", log.read_text(encoding="utf-8", errors="replace"))
    return {"sha256": program.sha256, "build": built[1] if built else "not told"}


def type_line(types: Mapping[str, str]) -> str:
    """Return which matrices got which type, in words: "180 Q5_0 (attn_k, attn_q), 31 Q8_0 (attn_v, token_embd)".

    Args:
        types: GGML's type of each matrix by its name.
    """
    parts = []
    for kind in sorted({*types.values()}):
        names = [name for name, one in types.items() if one == kind]
        parts.append((len(names), f"{len(names)} {kind} ({', '.join(sorted({_BLOCK.sub('', n) for n in names}))})"))
    return ", ".join(text for _, text in sorted(parts, key=lambda part: -part[0]))


def narrow_note(kind: str, widths: Mapping[str, int]) -> str | None:
    """Return what is said of rows that a type's blocks don't divide; None where all are divided.

    Args:
        kind: One of `TYPES`.
        widths: Length of a matrix's rows by its name.
    """
    block = _K_WIDTH if kind.endswith(_K_QUANTS) else _WIDTH
    narrow = [width for width in widths.values() if width % block]
    if not narrow:
        return None
    listed = " and ".join(map(str, sorted({*narrow})))
    return (
        f"llama.cpp takes wider types for {len(narrow)} of {len(widths)} matrices, "
        f"as {block} does not divide their rows of {listed} values"
    )
