"""`sft register`: an earlier run's model, registered now: where nothing was, or somewhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft import runner
from sft.config import compose
from sft.config.schema import RegistryKind
from sft.errors import ConfigError, Problem
from sft.progress import Progress
from sft.report.run import summary
from sft.runner import rerun

_GROUP = "registry"


def execute(path: str, overrides: Sequence[str]) -> int:
    """Register the model that a run made, and note it in the run's record.

    Args:
        path: The run's folder.
        overrides: Settings of the group `registry`; what the run's recipe says of it holds otherwise.

    Raises:
        ConfigError: A setting is wrong, of another group, or there is no registry.
        DataError: There is no run, or its record was changed.
        SftError: The run made no model, or the registry refused.
    """
    if others := [text for text in overrides if text.partition("=")[0].split(".")[0] != _GROUP]:
        rule = "is not for `sft register`: the model is made already"
        raise ConfigError([Problem(key=text, rule=rule, suggestion="settings of registry only") for text in others])
    earlier = rerun.find(Path(path))
    # A choice of the group is its kind and nothing else (conf/registry), and what the run says of it stays.
    settings = [
        text.replace(f"{_GROUP}=", f"{_GROUP}.kind=") if text.startswith(f"{_GROUP}=") else text for text in overrides
    ]
    with rerun.recipe(earlier, settings, groups=(_GROUP,)) as recipe:
        cfg = compose.compose(recipe, settings, needs_data=False)
    if cfg.registry.kind is RegistryKind.none and cfg.registry.upload is None:
        suggestion = "registry=mlflow, or registry=kubeflow registry.address=https://…"
        raise ConfigError(
            [Problem(key=_GROUP, rule="names no registry, and registry.upload no place", suggestion=suggestion)]
        )
    folder = earlier.file.parent
    progress = Progress()
    cfg = replace(cfg, run_root=str(folder.parent))
    for line in summary(runner.reregister(cfg, folder=folder, progress=progress)):
        progress.say(line)
    return 0
