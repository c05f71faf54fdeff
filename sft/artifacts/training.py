"""What a training makes: a checkpoint, and which of its steps was chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.artifacts.base import LOGS_NAME, Artifact


def on_ranks(stretch: Mapping[str, Any]) -> str:
    """Return what a part of a training ran on, in words: ``2 ranks``, ``8 ranks of 2 nodes, 4 to a row``."""
    ranks = "1 rank" if stretch["num_ranks"] == 1 else f"{stretch['num_ranks']} ranks"
    nodes = "" if stretch["num_nodes"] == 1 else f" of {stretch['num_nodes']} nodes"
    to_a_row = stretch.get("context_parallel", 1)
    return f"{ranks}{nodes}" + (f", {to_a_row} to a row" if to_a_row > 1 else "")


@dataclass(frozen=True, kw_only=True)
class ChosenStep:
    """Which step's weights a training ended with, and why. Its text is what a person is told.

    Attributes:
        metric: Field of ``metrics.jsonl`` by which it was chosen; or a score, for which the model of `epoch` was.
        value: Of that, there.
        num_steps: Steps that were made.
        num_planned: Steps that the training would have had.
        stopped_early: Whether it ended before them, because the metric no longer improved.
        epoch: Whose model was chosen by its score, from 1; None = the step by a validation on the way.
        num_models: Among how many models a score chose, or the loss of held-out sets.
        sets: Those held-out sets, which are scored, too; empty = samples of the training split were validated.
    """

    step: int
    metric: str
    value: float
    num_steps: int
    num_planned: int
    stopped_early: bool = False
    epoch: int | None = None
    num_models: int = 0
    sets: tuple[str, ...] = ()

    def __str__(self) -> str:
        ended = f"; stopped early, of {self.num_planned} planned" if self.stopped_early else ""
        epoch = f", the end of epoch {self.epoch}," if self.epoch else ""
        return f"chose step {self.step} of {self.num_steps}{epoch} by {self.metric} {self.value:.4g}{ended}"

    @property
    def optimism(self) -> str:
        """Which scores the choice makes look better than they are, and how others are got; empty where none do."""
        if self.epoch is None and not self.sets:
            return ""
        chose = ", ".join(self.sets) or self.metric.partition(".")[0]
        return (
            f"scores on {chose} are optimistic: on the same samples the best of "
            f"{self.num_models} models was chosen; unbiased are those on a set or task that chose nothing"
        )

    @property
    def told(self) -> str:
        """Its text, and which scores it makes optimistic."""
        return "; ".join(filter(None, (str(self), self.optimism)))


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """Where an epoch ended.

    Attributes:
        step: Its last one.
        folder: Of its model in the checkpoint, with ``/`` between parts.
    """

    step: int
    folder: str

    def files(self, known: Mapping[str, str]) -> dict[str, str]:
        """Return the files of its model as a checkpoint of that model alone would name them, each with its own name.

        Args:
            known: All files of the checkpoint.
        """
        prefix = f"{self.folder}/"
        own = {name.removeprefix(prefix): name for name in known if name.startswith(prefix)}
        if self.folder == "model":
            own |= {name: name for name in known if name.startswith("adapter/")}
        return {name if name.startswith("adapter/") else f"model/{name}": file for name, file in own.items()}


@dataclass(frozen=True, kw_only=True)
class CheckpointArtifact(Artifact):
    """A fine-tuned model in Hugging Face layout under ``model/``, and ``logs/metrics.jsonl``, a row per step.

    The metrics hold speeds, so they don't count towards the digest: equal weights have an equal digest.

    Attributes:
        num_steps: Optimizer steps taken.
        num_epochs: How often each sample was seen, to three digits after the point.
        final_loss: Mean loss per loss token of the last step.
        world_size: Ranks that finished it.
        effective_batch_size: Samples of an optimizer step over all ranks; 0 in a checkpoint that doesn't say.
        stretches: What the steps were trained on (``num_nodes``, ``num_ranks``, ``strategy``, ``fsdp_version``,
            ``device``; ``context_parallel`` if ranks share rows), each ``from_step`` on: several where the training was
            stopped and continued on another number of ranks.
        unmirrored: A line for each full state that could not be brought to `training.state_uri`.
        choice: Which step was chosen; None = the last one is the model.
        callbacks: Which callbacks were told of it, with package and version.
    """

    num_steps: int
    num_epochs: float
    final_loss: float
    world_size: int
    effective_batch_size: int = 0
    stretches: tuple[dict[str, Any], ...] = ()
    unmirrored: tuple[str, ...] = ()
    choice: ChosenStep | None = None
    callbacks: tuple[str, ...] = ()

    @property
    def model_dir(self) -> Path:
        return self.root / "model"

    @property
    def ran_on(self) -> str:
        """What it was trained on, in words: ``2 ranks``, or ``2 ranks, from step 43 on 1 rank``."""
        stretches = self.stretches or ({"num_ranks": self.world_size, "num_nodes": 1},)
        first, *others = stretches
        return on_ranks(first) + "".join(f", from step {more['from_step'] + 1} on {on_ranks(more)}" for more in others)

    def epoch_end(self, epoch: int) -> EpochEnd:
        """Return where an epoch ended, counted from 1, and where its model lies."""
        rows = [json.loads(line) for line in self.metrics_file.read_text(encoding="utf-8").splitlines()]
        last = max((row for row in rows if row["epoch"] < epoch), key=lambda row: row["step"])
        is_tuned = last["step"] == rows[-1]["step"] and self.choice is None
        # It is named by the samples that had been seen (instructlab-training, utils.py:save_checkpoint@0.16.2).
        folder = "model" if is_tuned else f"checkpoints/samples_{last['samples_seen']}"
        return EpochEnd(step=last["step"], folder=folder)

    @property
    def metrics_file(self) -> Path:
        return self.root / LOGS_NAME / "metrics.jsonl"
