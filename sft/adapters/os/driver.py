"""Owns whether the GPU driver and the installed torch fit together. It doesn't import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sft.adapters.os.gpus import ask

_CUDA = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)")
_DRIVER = re.compile(r"Driver Version\s*:\s*([\d.]+)")
_BUILT_FOR = re.compile(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
_OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""Oldest Linux driver for a major version of CUDA (CUDA compatibility guide, "minor version compatibility")."""
_LEAST_CAPABILITY = {11: (3, 5), 12: (5, 0), 13: (7, 5)}
"""Lowest compute capability that the compiler of a major version of CUDA knows (its release notes)."""


@dataclass(frozen=True, kw_only=True)
class Torch:
    """The installed torch.

    Attributes:
        version: Its own.
        cuda: The version of CUDA that it was built for; None = a build for CPUs, or for other makers' GPUs.
    """

    version: str
    cuda: str | None


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The GPU driver; None of what it doesn't say.

    Attributes:
        version: Its own.
        cuda: The newest version of CUDA that it runs, a compatibility package's included.
    """

    version: str | None
    cuda: str | None


def installed_torch() -> Torch | None:
    """Return what torch says of itself in a file; None if it is not installed here, or has no such file."""
    try:
        package = distribution("torch")
    except PackageNotFoundError:
        return None
    file = Path(str(package.locate_file("torch/version.py")))
    if not file.is_file():
        return None
    match = _BUILT_FOR.search(file.read_text(encoding="utf-8"))
    return Torch(version=package.version, cuda=match[1] if match else None)


@cache
def installed_driver() -> Driver:
    """Return what the driver's program says of the driver."""
    text = ask()[1]
    cuda, version = _CUDA.search(text), _DRIVER.search(text)
    return Driver(version=version[1] if version else None, cuda=cuda[1] if cuda else None)


def mismatch(torch: Torch | None, driver: Driver) -> str | None:
    """Return why torch finds none of the GPUs that the driver has, naming both versions; None if it should find them.

    Args:
        torch: The installed one; None = nothing is known of it.
        driver: Of this machine.
    """
    if torch is None:
        return None
    own = f"the driver is {driver.version or 'not known'}" + (f" (CUDA {driver.cuda})" if driver.cuda else "")
    if torch.cuda is None:
        return f"torch {torch.version} is a build without CUDA; {own}"
    major = int(torch.cuda.partition(".")[0])
    if driver.cuda is not None:
        is_old = int(driver.cuda.partition(".")[0]) < major
    else:
        is_old = driver.version is not None and _numbers(driver.version) < _numbers(_OLDEST_DRIVER.get(major, "0"))
    if not is_old:
        return None
    least = f", which needs driver {_OLDEST_DRIVER[major]} or newer" if major in _OLDEST_DRIVER else ""
    return f"torch {torch.version} is built for CUDA {torch.cuda}{least}; {own}"


def least_capability(torch: Torch | None) -> tuple[int, int] | None:
    """Return the lowest compute capability for which torch can have kernels; None if that is not known."""
    return _LEAST_CAPABILITY.get(int(torch.cuda.partition(".")[0])) if torch and torch.cuda else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
