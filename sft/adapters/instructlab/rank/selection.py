"""Owns which step's weights a training ends with: the best by a metric of its validations, and when to stop early.

The best weights are kept beside the training, in host memory and in each full state: a kill changes neither what is
chosen nor when a training stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sft.adapters.instructlab.rank.state_tensors import StateTensors
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError

CHOSEN_WEIGHTS = "chosen."
"""What begins the names of the best weights in a full state."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known after some validations, as plain data.

    Attributes:
        step: The best step so far; 0 = no validation yet.
        epoch: The epoch in which it was made, from 0.
        samples_seen: Samples at that step.
        value: The metric there; an equal one later is no better.
        reference: The metric from which an improvement is counted (`EarlyStoppingConfig.min_delta`).
        num_without: Validations since the last improvement.
    """

    step: int = 0
    epoch: int = 0
    samples_seen: int = 0
    value: float = math.nan
    reference: float = math.nan
    num_without: int = 0


def judged(
    before: Standing, value: float, *, step: int, epoch: int, samples_seen: int, prefers_high: bool, min_delta: float
) -> Standing:
    """Return the standing after one more validation.

    Args:
        before: After the one before.
        value: The metric now.
        step: Where.
        epoch: Its epoch.
        samples_seen: Samples so far.
        prefers_high: Whether more is better.
        min_delta: A value that is better by no more than this is no improvement; small ones add up to one.
    """
    sign = 1 if prefers_high else -1
    after = before
    if not before.step or sign * (value - before.value) > 0:
        after = replace(after, step=step, epoch=epoch, samples_seen=samples_seen, value=value)
    if not before.step or sign * (value - before.reference) > min_delta:
        return replace(after, reference=value, num_without=0)
    return replace(after, num_without=before.num_without + 1)


class Selection:
    """The choice of a training's step. Every method but `is_over` is called by all ranks together.

    Args:
        options: Settings that the library lacks.

    Attributes:
        standing: After the validations so far.
        weights: This rank's part of the best weights by name, in host memory; never changed, only replaced, because a
            thread may be writing them.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self.standing = Standing()
        self.weights: dict[str, Any] = {}

    @property
    def is_on(self) -> bool:
        """Whether a step is chosen at all, and not the last one taken."""
        return bool(self._options.select_metric)

    @property
    def is_over(self) -> bool:
        """Whether the training has to stop, because nothing has improved for long enough."""
        patience = self._options.patience
        return patience is not None and self.standing.num_without >= patience

    def check(self, split: Any) -> None:
        """Refuse a choice by samples of a source of which the loader of the validation split has none.

        Raises:
            StageError: There is none of the source that the metric names.
        """
        _, _, source = self._options.select_metric.partition(".")
        if not source or source in self._options.validation_sets:
            return
        if source not in split.dataset.dataset["source"]:
            num = len(split.dataset)
            raise StageError(
                f"training.select.metric={self._options.select_metric}: none of the {num} samples of the validation "
                f"split is of {source}",
                fix="raise training.validation_split, or choose by validation_loss",
            )

    def judge(self, row: Mapping[str, Any], accelerator: Any) -> None:
        """Compare a validation with those before, and keep the weights if it is the best so far.

        The ranks take rank 0's number: they must not decide apart, whatever the last digit of each.

        Args:
            row: Of ``metrics.jsonl``, with the metric.
            accelerator: The library's.

        Raises:
            StageError: The metric is not finite.
        """
        import torch.distributed as dist

        options, metric = self._options, self._options.select_metric
        values: list[Any] = [row[metric]]
        dist.broadcast_object_list(values)
        if not math.isfinite(values[0]):
            raise StageError(
                f"{metric} is {values[0]} at step {row['step']}, so that no step can be chosen by it",
                fix="lower training.learning_rate, raise training.warmup_steps, or set training.precision=fp32",
            )
        self.standing = judged(
            self.standing,
            values[0],
            step=row["step"],
            epoch=row["epoch"],
            samples_seen=row["samples_seen"],
            prefers_high=options.select_mode == "max",
            min_delta=options.min_delta,
        )
        if self.standing.step == row["step"]:
            self.weights = _copied(_state_tensors(accelerator).weights)

    def facts(self) -> dict[str, Any]:
        """Return what a full state says of the choice; nothing if none is made."""
        return {"selection": asdict(self.standing)} if self.standing.step else {}

    def result(self, num_planned: int, *, stopped_early: bool) -> dict[str, Any]:
        """Return what is said of the choice at the end; nothing if the last step was not to be compared.

        Args:
            num_planned: Steps of the whole training.
            stopped_early: Whether it was not made whole.
        """
        if not self.is_on:
            return {}
        best = self.standing
        chosen = {"step": best.step, "samples_seen": best.samples_seen, "value": best.value}
        return {"chosen": chosen, "num_planned": num_planned, "stopped_early": stopped_early}

    def tensors(self, content: StateTensors) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the best weights as a full state holds them.

        Args:
            content: The training's tensors now, which are sharded alike.

        Returns:
            By name what says how each is sharded, and this rank's parts.
        """
        layout = {f"{CHOSEN_WEIGHTS}{name}": content.weights[name] for name in self.weights}
        return layout, {f"{CHOSEN_WEIGHTS}{name}": own for name, own in self.weights.items()}

    def empty(self, facts: Mapping[str, Any], content: StateTensors) -> dict[str, Any]:
        """Return tensors into which a full state's best weights are to be read, by the names that they have there."""
        import torch

        if "selection" not in facts:
            return {}
        return {f"{CHOSEN_WEIGHTS}{name}": torch.empty_like(tensor) for name, tensor in content.weights.items()}

    def resume(self, facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        """Go on from a full state.

        Args:
            facts: What it says of itself.
            tensors: Those of `empty`, as they were read.
        """
        if "selection" in facts:
            self.standing = Standing(**facts["selection"])
            self.weights = _copied({name.removeprefix(CHOSEN_WEIGHTS): tensor for name, tensor in tensors.items()})

    def restore(self, accelerator: Any) -> None:
        """Give the model the best weights."""
        import torch

        content = _state_tensors(accelerator)
        with torch.no_grad():
            for name, tensor in content.weights.items():
                _own(tensor).copy_(self.weights[name])
        content.restore()


def _state_tensors(accelerator: Any) -> StateTensors:
    return StateTensors(accelerator.model.model, accelerator.optimizer.optimizer)


def _own(tensor: Any) -> Any:
    """Return this rank's part of a tensor, in place."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copied(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of this rank's parts in host memory; a tied weight has two names and one copy."""
    copies: dict[str, Any] = {}
    same: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        own = _own(tensor.detach())
        place = (own.data_ptr(), own.dtype, own.shape, own.stride())
        if place not in same:
            same[place] = own.to("cpu", copy=True)
        copies[name] = same[place]
    return copies
