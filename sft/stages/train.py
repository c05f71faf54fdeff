"""The training stage: a base model and tokenised samples in, a fine-tuned checkpoint out.

`out` survives a killed run: full states lie in ``out/work``, and the same command continues from the last one. What
stays at the end is ``model/``, with LoRA ``adapter/``, ``checkpoints/`` where a recipe keeps models on the way, and
``logs/`` with ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sft.adapters import callbacks
from sft.adapters.instructlab.layout import FINISHED, METRICS, MODELS
from sft.adapters.instructlab.monitor import RankLost, TrainingProgress
from sft.adapters.instructlab.training_callbacks import TrainingCallbacks
from sft.adapters.kubeflow.job import JobDisplay
from sft.artifacts import LOGS_NAME, CheckpointArtifact
from sft.config.schema import TrainingConfig
from sft.errors import StageError
from sft.planning import model_notes, row_packing
from sft.planning.model_config import read_config
from sft.planning.step_count import length_notes
from sft.progress import Progress
from sft.stages import trainjob
from sft.stages.earlier_states import WORK
from sft.stages.launcher import launcher_of
from sft.stages.state_mirror import StateMirror
from sft.stages.trained_models import choice_of, final_model, publish
from sft.stages.training_task import TrainInputs, batch_size, task


def train(cfg: TrainingConfig, inputs: TrainInputs, out: Path, progress: Progress) -> CheckpointArtifact:
    """Train to the end, from where an earlier try was stopped.

    Args:
        cfg: The training settings.
        inputs: Base model and tokenised samples.
        out: Private staging folder; the same one again after a stop.
        progress: The run's display.

    Raises:
        Preempted: SIGTERM, SIGHUP or SIGUSR1 came; the state is saved, or the TrainJob goes on by itself.
        StageError: A rank failed, rows were lost, or the loss is not a number.
    """
    logs, work, model_dir = out / LOGS_NAME, out / WORK, out / "model"
    mirror = _mirror(cfg, inputs, out, progress)
    told = callbacks.load(cfg.callbacks)
    if told and inputs.detach:
        progress.say("  training.callbacks: nobody is told of a training that is left to itself")
    if not model_dir.is_dir():  # it is the last thing to appear: an earlier try may have been stopped right after
        if not (logs / FINISHED).exists():
            if mirror:
                mirror.fetch(inputs.resources, keeps_models=cfg.checkpoint_at_epoch or bool(cfg.save_samples))
            _train(cfg, inputs, out, work, progress, mirror, TrainingCallbacks(told, logs))
        finished = json.loads((logs / FINISHED).read_text(encoding="utf-8"))
        rows = finished["num_rows"] + finished["num_validation_rows"]
        if rows != inputs.tokenized.num_samples:
            raise StageError(f"the trainer saw {rows} rows, but the training split has {inputs.tokenized.num_samples}")
        publish(final_model(work, finished), work / MODELS, inputs.model.model_dir, out)
    if work.exists():
        if mirror:
            mirror.remove()
        shutil.rmtree(work)
    finished = json.loads((logs / FINISHED).read_text(encoding="utf-8"))
    metrics = [json.loads(line) for line in (logs / METRICS).read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in metrics]
    checkpoint = CheckpointArtifact(
        root=out,
        num_steps=len(metrics),
        num_epochs=round(finished["samples_seen"] / finished["num_rows"], 3),
        final_loss=metrics[-1]["loss"],
        effective_batch_size=batch_size(cfg, inputs),
        world_size=inputs.resources.world_size,
        unmirrored=tuple(mirror.failures) if mirror else (),
        stretches=tuple(finished["stretches"]),
        choice=choice_of(cfg, finished, metrics),
        callbacks=tuple(callback.name for callback in told),
    )
    progress.say(f"  {len(metrics)} steps on {checkpoint.ran_on}, loss {losses[0]:.4f} → {losses[-1]:.4f}")
    if checkpoint.choice:
        progress.say(f"  {checkpoint.choice}")
    return checkpoint


def join(cfg: TrainingConfig, inputs: TrainInputs, out: Path, progress: Progress) -> None:
    """Run the ranks of a node that is not the first, until the training ends.

    Args:
        cfg: The training settings.
        inputs: Base model and tokenised samples, as on node 0.
        out: The staging folder of node 0.
        progress: The run's display.

    Raises:
        Preempted: A node was asked to stop; the state is saved.
        StageError: A rank failed, or node 0 never came.
    """
    _train(cfg, inputs, out, out / WORK, progress, None, TrainingCallbacks((), out / LOGS_NAME))  # node 0 tells


def _train(
    cfg: TrainingConfig,
    inputs: TrainInputs,
    out: Path,
    work: Path,
    progress: Progress,
    mirror: StateMirror | None,
    told: TrainingCallbacks,
) -> None:
    """Train, and resume after the loss of a rank as often as the recipe says."""
    config = read_config(inputs.model.model_dir) or {}
    model_notes.check_context(config, inputs.tokenized)
    of_model = model_notes.notes(cfg, config, inputs.tokenized)
    packing = row_packing.packing_notes(config, inputs.resources.attention)
    steps = length_notes(cfg, inputs.tokenized.num_samples, inputs.resources.num_sharing_batch)
    for note in (*inputs.resources.notes, *packing, *steps, *of_model):
        progress.say(f"  {note}")

    def watch(live: TrainingProgress) -> None:
        progress.update(live.line)
        told.poll()

    display = JobDisplay(watch=watch, update=progress.update, say=progress.say)
    logs = out / LOGS_NAME
    logs.mkdir(parents=True, exist_ok=True)  # another node may be here before node 0
    train_ranks = launcher_of(cfg.launcher).train
    for restart in range(cfg.max_restarts + 1):
        told.begin()
        try:
            with mirror.at_work() if mirror else nullcontext():
                train_ranks(cfg, task(cfg, inputs, logs, work), inputs.resources, display, detach=inputs.detach)
        except RankLost as lost:
            if restart == cfg.max_restarts:
                raise
            progress.say(f"  {lost.message}\n  restart {restart + 1} of {cfg.max_restarts}")
        else:
            told.end()
            return
        finally:
            told.leave()


def manifest(cfg: TrainingConfig, inputs: TrainInputs, out: Path) -> dict[str, Any]:
    """Return the TrainJob of this training, for somebody else to create; its pods find their settings in `out`.

    Raises:
        SftError: Kubeflow's models refuse it.
    """
    logs = out / LOGS_NAME
    logs.mkdir(exist_ok=True)
    return trainjob.export(cfg, task(cfg, inputs, logs, out / WORK), inputs.resources)


def _mirror(cfg: TrainingConfig, inputs: TrainInputs, out: Path, progress: Progress) -> StateMirror | None:
    uri = cfg.state_uri
    return StateMirror(uri, inputs.state_id, inputs.key, out, progress.say) if uri is not None else None
