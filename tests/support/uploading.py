"""A small package to upload, and the upload stage on it.

`package` writes a package's files; `bring` uploads them in this process, `start` in one that can be killed.

``python -m tests.support.uploading URI PACKAGE OUT`` is the latter.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from sft.artifacts import ModelPackage, UploadedModel, digest_of, hash_files
from sft.config.schema import RegistryConfig
from sft.stages.upload import UploadInputs, upload
from tests.support.register_inputs import Told

MARK = b"a-mark-that-comes-together"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Speller\n",
    "adapter/adapter_config.json": b"{}",
    "config.json": b'{"mark": "' + MARK + b'"}',
    "empty.txt": b"",
    "model.safetensors": b"weights " * 1000,
    "sft.json": b'{"schema": 1}',
}
"""The last one of these is the last one that appears."""


def package(root: Path, files: dict[str, bytes] | None = None) -> ModelPackage:
    """Write and return a package of these files, or of `FILES`."""
    for name, content in (FILES if files is None else files).items():
        (root / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "model" / name).write_bytes(content)
    return ModelPackage(root=root, digest=digest_of(hash_files(root)), record_digest="")


def noise(num_bytes: int, seed: int = 0) -> bytes:
    """Return random bytes, so that no part of them occurs twice."""
    return random.Random(seed).randbytes(num_bytes)


def bring(
    uri: str, packaged: ModelPackage, out: Path, recorded: dict[str, str] | None = None, **settings: str
) -> tuple[UploadedModel, str]:
    """Upload, and return the uploaded model and what a person was told.

    Args:
        uri: Where to.
        packaged: What.
        out: The stage's folder.
        recorded: sha256 of each file; None = as they are.
        settings: More of the registry's.
    """
    out.mkdir(parents=True, exist_ok=True)
    told = Told()
    files = hash_files(packaged.root) if recorded is None else recorded
    cfg = RegistryConfig(upload=uri, model_name="speller", **settings)
    made = upload(cfg, UploadInputs(package=packaged, files=files), out, told)
    return made, "\n".join(told.lines)


def start(uri: str, packaged: ModelPackage, out: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the stage in a process of its own."""
    argv = [sys.executable, "-m", "tests.support.uploading", uri, str(packaged.root), str(out)]
    return subprocess.Popen(argv, env={**os.environ, **environment})


if __name__ == "__main__":
    bring(sys.argv[1], package(Path(sys.argv[2]), {}), Path(sys.argv[3]))
