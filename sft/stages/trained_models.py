"""What a training leaves of its models: where they lie, and what of the base model is theirs too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import copy_as_in_base
from sft.adapters.instructlab import torchrun
from sft.adapters.instructlab.layout import ADAPTER, CHOSEN
from sft.artifacts import ChosenStep
from sft.config.schema import TrainingConfig


def final_model(work: Path, finished: Mapping[str, Any]) -> Path:
    """Return the model that the training ends with: that of the last step, or of the chosen one."""
    chosen = finished.get("chosen", finished)
    folder = work if chosen["samples_seen"] == finished["samples_seen"] else work / CHOSEN
    return torchrun.checkpoint(folder, chosen["samples_seen"])


def choice_of(
    cfg: TrainingConfig, finished: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]
) -> ChosenStep | None:
    """Return which step was chosen, as the ranks say; None if the last one is the model.

    Args:
        cfg: The training settings.
        finished: What the ranks said at the end.
        metrics: The rows of ``metrics.jsonl``.
    """
    metric, sets = cfg.select.validated, tuple(cfg.choosing_sets())
    if "chosen" not in finished or metric is None:
        return None
    return ChosenStep(
        step=finished["chosen"]["step"],
        metric=metric,
        value=finished["chosen"]["value"],
        num_steps=finished["step"],
        num_planned=finished["num_planned"],
        stopped_early=finished["stopped_early"],
        num_models=sum(metric in row for row in metrics) if sets else 0,
        sets=sets,
    )


def publish(final: Path, models: Path, base: Path, out: Path) -> None:
    """Move what is to stay out of the ranks' folder; ``model/`` comes last.

    Args:
        final: The model that the training ends with.
        models: Folder of those on the way; `final` may lie there, too.
        base: The base model.
        out: Where they go.
    """
    for model in (final, *(other for other in models.glob("samples_*") if other != final)):
        copy_as_in_base(base, model)
        _let_others_read(model)
        if model != final:
            (out / "checkpoints").mkdir(exist_ok=True)
            model.rename(out / "checkpoints" / model.name)
    if (final / ADAPTER).is_dir():
        (final / ADAPTER).rename(out / ADAPTER)
    final.rename(out / "model")


def _let_others_read(model: Path) -> None:
    """Give weights the mode of the folder's other files: safetensors makes them for their owner alone.

    A pod that serves the model may run as another user.
    """
    for weights in model.rglob("*.safetensors"):
        others = next((file for file in weights.parent.iterdir() if file.suffix == ".json"), None)
        if others is not None:
            weights.chmod(others.stat().st_mode)
