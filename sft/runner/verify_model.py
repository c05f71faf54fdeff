"""Whether a model's folder, wherever it was copied to, is what its ``sft.json`` says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft import self_hashed_json
from sft.adapters import signing
from sft.adapters.checkpoint_files import CONFIG, INDEX
from sft.artifacts import digest_of
from sft.errors import StageError
from sft.files import DOCUMENT_BYTES, read_document
from sft.runner.verification import ModelFacts, Verification, check_chain, entries, json_object, say_ways_out
from sft.stages.package import FACTS

_ATTRIBUTES = ".gitattributes"
_LFS = re.compile(r"(\S+ filter=lfs diff=lfs merge=lfs -text\s*|#.*|\s*)")
_CACHE = re.compile(
    r"\.cache/huggingface/(\.gitignore|CACHEDIR\.TAG|(download|upload)/(\.gitignore|.+\.(metadata|lock|incomplete)))"
)
"""What the hub's client keeps beside a model's files."""


def check_model(verification: Verification, folder: Path, trusted: signing.Trusted | None) -> dict[str, Any] | None:
    """Check a model's folder; return the record that it carries, None if that is broken."""
    there = [name for name in entries(folder) if not _is_of_the_hub(verification, folder, name)]
    facts = verification.unsealed(folder / FACTS, ModelFacts)
    if facts is not None:
        is_cached = folder.parent.name == "snapshots"  # the hub's cache holds links to the files
        present = (name for name in there if name not in {FACTS, signing.SIGNATURE})
        verification.files(folder, facts["files"], present, may_link=is_cached)
        check_weights(verification, folder, facts["files"])
        if verification.what.startswith("model"):
            say_ways_out(verification, facts["record"]["config"])
        verification.same(
            f"{folder / FACTS}: record", self_hashed_json.digest_of(facts["record"]), facts["record_digest"]
        )
        check_chain(verification, str(folder / FACTS), facts["record"]["steps"])
    verification.digest = digest_of(
        {f"model/{name}": verification.hash(folder / name) for name in there if (folder / name).is_file()}
    )
    signed = (folder / signing.SIGNATURE).is_file()
    if trusted and signed:
        try:
            signing.check(folder, trusted)
        except StageError as error:
            verification.problems.append(error.message)
    elif trusted:
        verification.problems.append(f"{folder}: is not signed")
    elif signed:
        verification.notes.append(
            f"{folder / signing.SIGNATURE}: not checked; say who signs: --key, or --identity and --issuer"
        )
    return facts["record"] if facts else None


def _is_of_the_hub(verification: Verification, folder: Path, name: str) -> bool:
    """Return whether the hub or its client has put a file beside a model's; it is said, as no record holds it."""
    file = folder / name
    if name == _ATTRIBUTES and file.is_file() and not file.is_symlink() and file.stat().st_size <= DOCUMENT_BYTES:
        lines = read_document(file).decode(errors="replace").splitlines()
        if all(_LFS.fullmatch(line) for line in lines):
            verification.notes.append(f"{file}: the hub's, which says how files are stored; not in the record")
            return True
    return _CACHE.fullmatch(name) is not None and not file.is_symlink()


def check_weights(verification: Verification, folder: Path, recorded: Mapping[str, str]) -> None:
    """Note where a config leads a loader to weights or code that the record does not hold."""
    for name in _named_files(folder):
        if name not in recorded:
            verification.problems.append(f"{folder}: its configuration loads {name}, which the record does not hold")


def _named_files(folder: Path) -> Iterator[str]:
    weights = (json_object(folder / INDEX) or {}).get("weight_map")
    yield from sorted({str(shard) for shard in weights.values()}) if isinstance(weights, dict) else ()
    config = json_object(folder / CONFIG) or {}
    if named := config.get("transformers_weights"):
        yield str(named)
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        if "/" in str(config.get(key) or ""):
            yield str(config[key])
    code = config.get("auto_map")
    for references in code.values() if isinstance(code, dict) else ():
        for reference in references if isinstance(references, list) else [references]:
            if reference is not None:
                yield f"{str(reference).rpartition('.')[0]}.py"
