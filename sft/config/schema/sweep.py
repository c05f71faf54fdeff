"""Settings of the `sweep` group: what a sweep looks for. Hydra's own say how it is run (docs/sweeps.md)."""

from __future__ import annotations

from dataclasses import dataclass

from sft.config.schema.bounds import setting
from sft.config.schema.texts import LINE


@dataclass(kw_only=True)
class SweepConfig:
    """What a sweep over a recipe looks for. Nothing of it changes what a run makes."""

    objective: str | None = setting(None, LINE)
    """The score that points are compared by: `task.metric` of the tuned model (`holdout.loss`, `arc_easy.acc`), or
    `train.loss`, that of the last step. A sampler gets it. null = `holdout.loss`, or `train.loss` where nothing is held
    out or scored."""
    skip_infeasible: bool = True
    """Leave out points that would be another one's work again, or that need more memory than there is."""
