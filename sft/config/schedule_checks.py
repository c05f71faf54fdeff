"""Rules of the learning rate's schedule, and which of its settings are read. Pure, as `checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import LrScheduler, ScheduleConfig, TrainingConfig
from sft.errors import Problem

_SCHEDULE = "training.schedule"
_READ_BY = {
    "min_learning_rate": (LrScheduler.cosine_with_min_lr, LrScheduler.polynomial, LrScheduler.warmup_stable_decay),
    "cycles": (LrScheduler.cosine_with_restarts,),
    "power": (LrScheduler.polynomial,),
    "decay_ratio": (LrScheduler.warmup_stable_decay,),
}


def check_schedule(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield what is wrong between the learning rate and the settings of its schedule."""
    schedule = cfg.schedule
    if schedule.warmup_ratio is not None and cfg.warmup_steps:
        yield Problem(
            key=f"{_SCHEDULE}.warmup_ratio",
            value=str(schedule.warmup_ratio),
            rule=f"says again how long the warm-up is, beside training.warmup_steps={cfg.warmup_steps}",
            suggestion="try training.schedule.warmup_ratio=null",
        )
    if cfg.lr_scheduler in _READ_BY["min_learning_rate"] and schedule.min_learning_rate >= cfg.rate():
        yield Problem(
            key=f"{_SCHEDULE}.min_learning_rate",
            value=str(schedule.min_learning_rate),
            rule=f"must be below training.learning_rate={cfg.rate()}, from which {cfg.lr_scheduler.value} falls",
            suggestion=f"try {cfg.rate() / 10}" if cfg.rate() else "try training.lr_scheduler=constant",
        )
    is_stable = cfg.lr_scheduler is LrScheduler.warmup_stable_decay
    if is_stable and (schedule.warmup_ratio or 0) + schedule.decay_ratio > 1:
        yield Problem(
            key=f"{_SCHEDULE}.decay_ratio",
            value=str(schedule.decay_ratio),
            rule=f"and training.schedule.warmup_ratio={schedule.warmup_ratio} are more than the whole training",
            suggestion="try training.schedule.decay_ratio=0.1",
        )


def unread_schedule(cfg: TrainingConfig) -> Iterator[str]:
    """Yield a line for each setting that the chosen schedule does not read."""
    name, schedule, untouched = cfg.lr_scheduler.value, cfg.schedule, ScheduleConfig()
    if cfg.lr_scheduler is LrScheduler.constant:  # optimization.py:get_scheduler@transformers 5
        warmups = {"warmup_steps": cfg.warmup_steps, "schedule.warmup_ratio": schedule.warmup_ratio}
        for key, value in warmups.items():
            if value:
                yield f"training.{key}={value}: lr_scheduler=constant has none; constant_with_warmup has"
    for key, readers in _READ_BY.items():
        if cfg.lr_scheduler not in readers and getattr(schedule, key) != getattr(untouched, key):
            by = " and ".join(reader.value for reader in readers)
            yield f"{_SCHEDULE}.{key}={getattr(schedule, key)}: not read with lr_scheduler={name}, but by {by}"
