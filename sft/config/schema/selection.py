"""Settings of which step a training ends with, and when it stops early."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sft.config.schema.bounds import LARGEST_INT32, number, setting
from sft.config.schema.rules import Text
from sft.config.schema.texts import matches

METRIC = "validation_loss"
"""What a step is chosen by: the loss of what is validated, or of one source's part of it, or of one set."""
_METRIC_NAME = Text(
    matches(r"[A-Za-z][A-Za-z0-9_.,+-]{0,199}", "must name a metric, such as validation_loss or holdout.loss")
)


class SelectMode(Enum):
    """Which value of a metric is best."""

    min = "min"
    max = "max"


@dataclass(kw_only=True)
class SelectConfig:
    """Which step's weights the model has that is scored, packaged and registered."""

    metric: str | None = setting(None, _METRIC_NAME)
    """`validation_loss`, or `validation_loss.NAME` of one of `training.validation_sets` or, with
    `training.validation_split`, of `dataset.sources`, measured each `training.validation_frequency` and after the last
    step; the best one's weights are the model. It needs one of these two settings, and FSDP2. Or a score as gates name
    it, `holdout.exact_match` or `gsm8k.exact_match`: the model is the best epoch's, of those that `eval.every_epochs`
    scores and the last. null = the last step's."""
    mode: SelectMode | None = None
    """Whether the lowest value is best, or the highest; null = as the metric is better. Of equal ones the first is."""

    @property
    def validated(self) -> str | None:
        """The metric, if it is measured while the training goes on."""
        return self.metric if self.metric is not None and self.metric.partition(".")[0] == METRIC else None

    @property
    def score(self) -> str | None:
        """The metric, if it is a score of finished models."""
        return None if self.validated else self.metric


@dataclass(kw_only=True)
class EarlyStoppingConfig:
    """When a training stops before its last step, because `training.select.metric` no longer improves."""

    patience: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """Validations in a row without an improvement after which the training stops; null = it goes on to its end."""
    min_delta: float = number(0.0, at_least=0, at_most=1_000_000)
    """By how much more than this a value must be better than the last improvement to be one itself."""
