"""The select stage: the scores of the models of epochs in, the best one's checkpoint out.

Nothing large is written: its files are links to the training's. The training's own choice of a step, by a loss that it
measures on the way, is the ranks' (`sft.adapters.instructlab.rank.selection`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sft.artifacts import Artifact, CheckpointArtifact, ChosenStep, EvalReport
from sft.config.schema import SelectConfig, SelectMode
from sft.errors import StageError
from sft.progress import Progress
from sft.scores import Score, format_score
from sft.stages.placed_files import place


@dataclass(frozen=True, kw_only=True)
class SelectInputs:
    """What the select stage takes.

    Attributes:
        checkpoint: What the training made, with the models of its epochs.
        epochs: Scores of each of these models that may be chosen, by epoch from 1; the last one's are among them.
        files: sha256 of each of the checkpoint's files.
    """

    checkpoint: CheckpointArtifact
    epochs: Mapping[int, EvalReport]
    files: Mapping[str, str]


def select(cfg: SelectConfig, inputs: SelectInputs, out: Path, progress: Progress) -> CheckpointArtifact:
    """Put the checkpoint of the best epoch together.

    Args:
        cfg: The score that chooses, and which of its values is best.
        inputs: Models and scores.
        out: Private staging folder.
        progress: Told of each epoch's score, and of the choice.

    Raises:
        StageError: There is no such score, or it is not finite for any of the models.
    """
    trained = inputs.checkpoint
    scores = {epoch: _score(cfg, report) for epoch, report in sorted(inputs.epochs.items())}
    for line in _told(cfg, scores):
        progress.say(f"  {line}")
    epoch = best_epoch(cfg, scores)
    end = trained.epoch_end(epoch)
    for name, source in end.files(inputs.files).items():
        place(trained.root / source, out / name, inputs.files[source])
    chosen = replace(trained, root=out, digest="", choice=_choice(epoch, scores, trained))
    chosen.metrics_file.parent.mkdir()
    shutil.copyfile(trained.metrics_file, chosen.metrics_file)
    progress.say(f"  {chosen.choice}")
    return chosen


def trained_checkpoint(made: Mapping[str, Artifact]) -> CheckpointArtifact | None:
    """Return the model that a run has trained, the chosen one where scores have chosen; None if it has not yet.

    Args:
        made: What the steps of a run made, by their names.
    """
    checkpoint = made.get(trained_step(made))
    return checkpoint if isinstance(checkpoint, CheckpointArtifact) else None


def trained_step(made: Mapping[str, Artifact]) -> str:
    """Return the name of the step that made the model that a run goes on with."""
    return "select" if "select" in made else "train"


def best_epoch(cfg: SelectConfig, scores: Mapping[int, Score]) -> int:
    """Return the epoch with the best score; of equal ones the first.

    Args:
        cfg: Which value is best.
        scores: Of each epoch, in order.

    Raises:
        StageError: No score is finite.
    """
    finite = {epoch: score.value for epoch, score in scores.items() if math.isfinite(score.value)}
    if not finite:
        raise StageError(
            f"{cfg.score} of every epoch is infinite, so that no epoch can be chosen by it",
            fix="lower training.learning_rate, or choose by another score",
        )
    best = max if _prefers_high(cfg, next(iter(scores.values()))) else min
    return best(finite, key=lambda epoch: finite[epoch])


def _prefers_high(cfg: SelectConfig, score: Score) -> bool:
    return score.higher_is_better if cfg.mode is None else cfg.mode is SelectMode.max


def _score(cfg: SelectConfig, report: EvalReport) -> Score:
    name = cfg.score or ""
    score = report.score(name)
    if score is None:
        raise StageError(f"training.select.metric: there is no score {name}", fix=f"one of {', '.join(report.names)}")
    return score


def _told(cfg: SelectConfig, scores: Mapping[int, Score]) -> Iterator[str]:
    """Yield the score of each epoch, and that a mode is against the score's direction."""
    for epoch, score in scores.items():
        yield f"epoch {epoch}: {score.name} {format_score(score.value, score.stderr)}"
    first = next(iter(scores.values()))
    if cfg.mode is not None and _prefers_high(cfg, first) != first.higher_is_better:
        better = "higher" if first.higher_is_better else "lower"
        yield f"training.select.mode={cfg.mode.value}: {first.name} is better when it is {better}"


def _choice(epoch: int, scores: Mapping[int, Score], trained: CheckpointArtifact) -> ChosenStep:
    score = scores[epoch]
    return ChosenStep(
        step=trained.epoch_end(epoch).step,
        metric=score.name,
        value=score.value,
        num_steps=trained.num_steps,
        num_planned=trained.num_steps,
        epoch=epoch,
        num_models=len(scores),
    )
