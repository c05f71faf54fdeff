"""Owns taking over a full state that a try on other ranks has left, so that a training continues on what is there now.

With another number of ranks, nodes or another device a training has another key, and so another staging folder. A try
of the same layout but another sharding strategy is another experiment: its state is not taken.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import MODELS, STATE_FACTS, STATE_FORMAT, STATE_PREFIX, STATES
from sft.artifacts.training import on_ranks
from sft.planning.resources import Resources

WORK = "work"
"""Folder of a try in which the ranks work, and which its end removes."""
LAYOUT = ("num_nodes", "num_ranks", "device", "context_parallel")
"""Facts of a full state that say what it was saved on."""


@dataclass(frozen=True)
class FullState:
    """A full state and what it says of itself."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.facts["position"]["step"])

    @property
    def layout(self) -> dict[str, Any]:
        """What it was saved on."""
        return layout_in(self.facts["stretches"][-1])


def layout_of(resources: Resources) -> dict[str, Any]:
    """Return what a full state that is saved here says it was saved on."""
    return {
        "num_nodes": resources.nodes.num,
        "num_ranks": resources.world_size,
        "device": resources.device,
        "context_parallel": resources.context_parallel,
    }


def layout_in(stretch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layout in one of `CheckpointArtifact.stretches`, which names ranks that share rows only if some do."""
    return {name: {"context_parallel": 1, **stretch}.get(name) for name in LAYOUT}


def states_of(attempt: Path) -> list[FullState]:
    """Return the full states in the staging folder of a training, the newest first."""
    states = []
    for folder in (attempt / WORK / STATES).glob(f"{STATE_PREFIX}*"):
        try:
            state = FullState(folder, json.loads((folder / STATE_FACTS).read_text(encoding="utf-8")))
            if state.facts["format"] == STATE_FORMAT and state.layout and state.step:
                states.append(state)
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue  # the ranks say so if it is theirs
    return sorted(states, key=lambda state: state.step, reverse=True)


def take_over(attempts: Iterable[Path], out: Path, state_id: str, resources: Resources) -> str | None:
    """Bring the newest state of other tries of the same training here, unless this one's own is as new.

    Args:
        attempts: Staging folders of other tries, at which nobody is at work.
        out: Staging folder of this one.
        state_id: What the states of this training are known by.
        resources: What this one trains on.

    Returns:
        A line that says what was taken; None if nothing was.
    """
    here = layout_of(resources)
    others = [state for attempt in attempts for state in states_of(attempt)]
    fitting = [state for state in others if state.facts["state_id"] == state_id and state.layout != here]
    newest = max(fitting, key=lambda state: state.step, default=None)
    own = states_of(out)
    if newest is None or (own and own[0].step >= newest.step):
        return None
    work = newest.folder.parent.parent
    samples_seen = newest.facts["position"]["samples_seen"]
    for model in (work / MODELS).glob("samples_*"):
        if int(model.name.removeprefix("samples_")) <= samples_seen:  # a later one may be cut short
            shutil.copytree(model, out / WORK / MODELS / model.name, dirs_exist_ok=True)
    target = out / WORK / STATES / newest.folder.name
    partial = target.with_name(f".{target.name}")
    link_files(newest.folder, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return f"  takes over the full state of step {newest.step}, saved on {on_ranks(newest.facts['stretches'][-1])}"


def link_files(folder: Path, target: Path) -> None:
    """Give the files of a state names in another folder too, in the place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Give a file of a state, which never changes, a second name; copy it where a file system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
