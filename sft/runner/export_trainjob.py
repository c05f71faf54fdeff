"""A run's training as somebody else is to begin it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft import record
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem, SftError
from sft.planning.plan import build_plan
from sft.planning.state_id import state_id
from sft.progress import Progress
from sft.runner.dispatch import train_inputs
from sft.runner.status import find_done, read_environment, run_folder
from sft.stages import train
from sft.store import Store


def export_trainjob(cfg: RunConfig, progress: Progress) -> dict[str, Any]:
    """Return the TrainJob that the run would make, and put its pods' settings where they look for them.

    Args:
        cfg: A checked configuration.
        progress: The display.

    Raises:
        ConfigError: The run does not train in a TrainJob.
        SftError: The data or the model are not there yet, or the training is done.
    """
    if not cfg.training.launcher.is_remote:
        suggestion = "add training/launcher=kubeflow"
        rule = "trains on this machine, in no TrainJob"
        raise ConfigError(
            [
                Problem(
                    key="training.launcher.kind",
                    value=cfg.training.launcher.kind.name,
                    rule=rule,
                    suggestion=suggestion,
                )
            ]
        )
    environment = read_environment(cfg)
    plan, folder = build_plan(cfg, environment).reaching("train"), run_folder(cfg)
    store = Store(Path(cfg.run_root) / "store")
    store.open()
    with store.in_use():
        done = find_done(plan, store, record.load(folder))
        step = plan.steps[-1]
        if step.name in done:
            raise SftError(f"the training is done: {done[step.name].path}")
        if absent := [name for name in step.needs if name not in done]:
            fix = "`sft run` with the same recipe and settings and --until tokenize, then this again"
            raise SftError(f"the pods take what {' and '.join(absent)} will make, which is not done yet", fix=fix)
        digests = {name: done[name].manifest.digest for name in step.needs}
        key, states = step.key(digests), state_id(step, digests)
        artifacts = {name: entry.artifact for name, entry in done.items()}
        with store.lock(step.stage, key, lambda: progress.update("waiting: a run is at work on this training")):
            out = store.staging(step.stage, key, resume=True)
            inputs = train_inputs(cfg, artifacts, environment.resources, run_id=folder.name, key=key, states=states)
            return train.manifest(cfg.training, inputs, out)
