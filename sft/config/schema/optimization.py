"""Settings of what is minimised, which parameters are trained, and by which optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from sft.config.schema.bounds import number, setting
from sft.config.schema.rules import Text
from sft.config.schema.texts import matches, one_line

PATTERN = Text(one_line, matches(r"[A-Za-z0-9_.*?\[\]!-]{1,200}", "must be a parameter's name, with * for any text"))
GROUP_NAME = Text(matches(r"[a-z0-9][a-z0-9_-]{0,39}", "must be a short name: a-z, 0-9, _ and -"))


class Loss(Enum):
    """What a token that counts adds to the loss; validation is always plain cross-entropy."""

    cross_entropy = "cross_entropy"
    dft = "dft"


class Optimizer(Enum):
    """What makes a step of the gradients."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    adafactor = "adafactor"
    lion = "lion"
    muon = "muon"


class WeightDecayOn(Enum):
    """Which parameters weight decay draws to 0."""

    matrices = "matrices"
    all = "all"


@dataclass(kw_only=True)
class ParameterGroupConfig:
    """Parameters that are trained in another way than the others; null = as the others are."""

    match: str = setting(MISSING, PATTERN)
    """Their names: `embeddings`, `lm_head`, `layers.0-11`, or a name as in `model.safetensors`, in which `*` stands for
    any text. A parameter may be in one group."""
    learning_rate: float | None = number(None, at_least=0, at_most=1_000)
    """It follows the same schedule."""
    weight_decay: float | None = number(None, at_least=0, at_most=1_000)
    freeze: bool = False
    """Whether they are not trained."""
