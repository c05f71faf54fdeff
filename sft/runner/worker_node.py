"""What a node does that is not the first: it takes part in the training of node 0, and in nothing else."""

from __future__ import annotations

import time
from pathlib import Path

from sft.artifacts import Artifact
from sft.config.schema import RunConfig
from sft.planning.plan import Step, build_plan
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.runner.dispatch import train_inputs
from sft.runner.status import read_environment
from sft.stages.train import join
from sft.store import Store

_LOOK_SECONDS = 1.0


def is_worker_node(cfg: RunConfig) -> bool:
    """Return whether this machine only takes part in the training of another, node 0."""
    return resolve_resources(cfg.training).nodes.rank > 0


def run_worker_node(cfg: RunConfig, *, progress: Progress, goal: str | None = None) -> None:
    """Wait for node 0's data and model, and train with it: all that another node does.

    Args:
        cfg: A checked configuration, the same as on node 0 but for `training.launcher.node_rank`.
        progress: The run's display.
        goal: As in `sft.runner.run`: without training there is nothing to take part in.

    Raises:
        ConfigError: There is no such step.
        SftError: The training failed.
    """
    environment = read_environment(cfg)
    plan = build_plan(cfg, environment)
    if goal and all(step.name != "train" for step in plan.reaching(goal).steps):
        progress.say("nothing to do for this node: node 0 does not train")
        return
    store = Store(Path(cfg.run_root) / "store")
    store.open()
    steps = {step.name: step for step in plan.steps}
    done: dict[str, Artifact] = {}

    def key(step: Step) -> str:
        return step.key({needed: done[needed].digest for needed in step.needs})

    with store.in_use(), progress.stage("train"):
        for step in plan.reaching("train").steps[:-1]:
            while (entry := store.find(step.stage, key(step))) is None:
                progress.update(f"waits for {step.name} of node 0")
                time.sleep(_LOOK_SECONDS)
            done[step.name] = entry.artifact
        trained = key(steps["train"])
        if store.find("train", trained) is None:
            progress.update("waits for node 0")
            inputs = train_inputs(cfg, done, environment.resources, run_id="", key=trained)
            join(cfg.training, inputs, store.staging_path("train", trained), progress)
    progress.say("✓ train: the part of this node; node 0 does the rest")
