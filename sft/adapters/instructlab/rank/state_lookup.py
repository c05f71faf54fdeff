"""Owns which full state a run continues from: the newest one of this training that is undamaged.

Each rank reads and hashes its share of a state's files; the ranks agree before anything of it is loaded.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import STATE_FACTS, STATE_FORMAT, STATE_PREFIX
from sft.adapters.instructlab.rank import state_files
from sft.errors import StageError
from sft.files import sha256_file

log = logging.getLogger(__name__)


def newest_undamaged(root: Path, state_id: str) -> tuple[Path | None, list[str]]:
    """Return the newest state whose files have their digests, and a line for each that is not used."""
    import torch.distributed as dist

    names: list[Any] = [[]]
    if dist.get_rank() == 0:
        for cut_short in root.glob(f".{STATE_PREFIX}*"):
            shutil.rmtree(cut_short)
        names = [[state.name for state in newest_first(root)]]
    dist.broadcast_object_list(names)
    unused: list[str] = []
    for name in names[0]:
        state = root / name
        damages = [damage for damage in gather(_damage(state, state_id)) if damage]
        if not damages:
            return state, unused
        unused.append(f"full state {name} is damaged: {damages[0]}")
        dist.barrier()
        if dist.get_rank() == 0:
            log.warning(unused[-1])
            shutil.rmtree(state)
    return None, unused


def _damage(state: Path, state_id: str) -> str | None:
    """Return what is wrong with a state, as far as this rank looks; None if nothing is."""
    import torch.distributed as dist

    try:
        facts = facts_of(state)
        files, saved_id = facts["files"], facts["state_id"]
        if facts["format"] != STATE_FORMAT:
            return "another version of sft wrote it"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{STATE_FACTS} can't be read"
    if saved_id != state_id:
        return "it is of another training"
    own = dict(sorted(files.items())[dist.get_rank() :: dist.get_world_size()])
    if (damage := damage_of(state, own)) or state_files.METADATA not in own:
        return damage
    try:
        state_files.read_metadata(state)
    except StageError as error:
        return error.message
    return None


def newest_first(root: Path) -> list[Path]:
    """Return the states of a folder, the newest first."""
    states = root.glob(f"{STATE_PREFIX}*")
    return sorted(states, key=lambda path: int(path.name.removeprefix(STATE_PREFIX)), reverse=True)


def facts_of(state: Path) -> dict[str, Any]:
    """Return what a state says of itself."""
    facts: dict[str, Any] = json.loads((state / STATE_FACTS).read_text(encoding="utf-8"))
    return facts


def gather(value: Any, group: Any = None) -> list[Any]:
    """Return each rank's value, by rank."""
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group)
    return values


def damage_of(state: Path, files: Mapping[str, str]) -> str | None:
    """Return which of a state's files is missing or has another sha256; None if none."""
    for name, sha256 in files.items():
        if not (state / name).is_file():
            return f"{name} is missing"
        if sha256_file(state / name) != sha256:
            return f"{name} has changed since it was saved"
    return None
