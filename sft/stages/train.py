"""The training stage: a base model and tokenised samples in, a fine-tuned checkpoint out.

`out` survives a killed run: the library's full states lie in ``out/work``, and the same command continues from
the last one. What stays at the end is ``model/``, and ``logs/`` with ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.adapters import machine
from sft.adapters.instructlab import launch
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, WorkerOptions
from sft.artifacts import LOGS_NAME, CheckpointArtifact, ModelArtifact, TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.progress import Progress


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """What the training stage takes."""

    model: ModelArtifact
    tokenized: TokenizedArtifact


def num_processes(cfg: TrainingConfig) -> int:
    """Ranks on this machine: as asked for, else one per GPU, else one."""
    return cfg.launcher.procs_per_worker or max(1, len(machine.gpus()))


def train(cfg: TrainingConfig, inputs: TrainInputs, out: Path, progress: Progress) -> CheckpointArtifact:
    """Trains to the end, or on from where an earlier try was stopped.

    Args:
        cfg: The training settings.
        inputs: Base model and tokenised samples.
        out: Private staging folder; the same one again after a stop.
        progress: The run's display.

    Raises:
        StageError: A rank failed, rows were lost, or the loss is not a number.
    """
    ranks = num_processes(cfg)
    metrics, model_dir, work = out / LOGS_NAME / "metrics.jsonl", out / "model", out / "work"
    if not model_dir.is_dir():  # it is the last thing to appear: an earlier try may have been stopped right after
        steps, trained = _run(cfg, inputs, out, work, progress)
        with metrics.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(step)) + "\n" for step in steps)
        trained.rename(model_dir)
    if work.exists():
        shutil.rmtree(work)
    losses = [json.loads(line)["loss"] for line in metrics.read_text(encoding="utf-8").splitlines()]
    progress.say(f"  {len(losses)} steps on {ranks} ranks, loss {losses[0]:.4f} → {losses[-1]:.4f}")
    return CheckpointArtifact(
        root=out, num_steps=len(losses), num_epochs=cfg.num_epochs, final_loss=losses[-1], world_size=ranks
    )


def _run(
    cfg: TrainingConfig, inputs: TrainInputs, out: Path, work: Path, progress: Progress
) -> tuple[list[launch.Step], Path]:
    """Every step of the run, and the folder of the trained model."""

    def watch(step: launch.Step, steps_per_epoch: int) -> None:
        progress.update(
            f"step {step.step}/{steps_per_epoch * cfg.num_epochs}, epoch {step.epoch + 1}/{cfg.num_epochs}, "
            f"loss {step.loss:.4f}, lr {step.learning_rate:.2e}, {step.samples_per_second:.0f} samples/s"
        )

    if (work / "full_state").is_dir():
        progress.say("  continues from the last full state")
    ranks = num_processes(cfg)
    steps = launch.launch(
        main_args(cfg, inputs, work, ranks),
        WorkerOptions(
            precision=cfg.precision.value,
            gradient_checkpointing=cfg.gradient_checkpointing,
            num_loader_workers=cfg.num_loader_workers,
        ),
        LaunchSettings(num_processes=ranks, env=dict(cfg.launcher.env)),
        logs=out / LOGS_NAME,
        watch=watch,
    )
    launch.check_losses(steps)
    return steps, launch.checkpoint(work, inputs.tokenized.num_samples * cfg.num_epochs)


def main_args(cfg: TrainingConfig, inputs: TrainInputs, work: Path, ranks: int) -> MainArgs:
    """The one place where our settings become the library's."""
    # On one rank torch turns every sharding strategy into NO_SHARD, with a warning.
    strategy = cfg.fsdp.sharding_strategy.value if ranks > 1 else "NO_SHARD"
    return MainArgs(
        model_name_or_path=str(inputs.model.model_dir),
        data_path=str(inputs.tokenized.data_file),
        output_dir=str(work),
        num_epochs=cfg.num_epochs,
        effective_batch_size=cfg.effective_batch_size,
        max_batch_len=cfg.max_tokens_per_gpu,
        learning_rate=cfg.learning_rate,
        lr_scheduler=cfg.lr_scheduler.value,
        num_warmup_steps=cfg.warmup_steps,
        adamw_weight_decay=cfg.weight_decay,
        adamw_beta1=cfg.beta1,
        adamw_beta2=cfg.beta2,
        adamw_eps=cfg.adam_epsilon,
        seed=cfg.seed,
        fsdp_sharding_strategy=strategy,
        cpu_offload_params_fsdp=cfg.fsdp.cpu_offload_params,
        accelerate_full_state_at_epoch=cfg.full_state_at_epoch,
        trust_remote_code=inputs.model.trust_remote_code,
    )
