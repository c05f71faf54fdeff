"""Owns what a rank does around each optimizer step: resuming, checks, metrics, validation, checkpoints.

The library's `train` (main_ds.py:147@0.16.2) iterates a loader, processes a batch, takes an optimizer step and saves at
the end of an epoch. `Loop` replaces those four steps. So it replaces the library's own metrics (trap 8), its saving by
samples (trap 9), its full states (trap 13) and its checkpoints on demand, which resume at the wrong step (trap 6). It
can be removed when upstream's loop takes callbacks that may act on it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import FINISHED, METRICS, RESUMED, RESUMES, STATES, STOP, STOPPED, UNTRACKED
from sft.adapters.instructlab.rank import batch as processing
from sft.adapters.instructlab.rank import by_source, compilation, loader, row_split, varlen
from sft.adapters.instructlab.rank.full_states import FullStates, Position
from sft.adapters.instructlab.rank.profiler import tracing
from sft.adapters.instructlab.rank.saved_models import SavedModels
from sft.adapters.instructlab.rank.selection import Selection
from sft.adapters.instructlab.rank.step_row import run_layout, step_row
from sft.adapters.instructlab.rank.validation import Validation
from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.instructlab.tracking import Trackers
from sft.adapters.instructlab.training_length import training_length
from sft.adapters.patched import patched
from sft.errors import StageError
from sft.files import write_atomically, write_json


class StopRequested(Exception):
    """The run was asked to stop; its state is saved."""


class EndedEarly(Exception):
    """Nothing has improved for long enough; the model is saved."""


class Loop:
    """The training loop of one rank.

    Args:
        args: Arguments of the library.
        options: Settings that the library lacks or hard-codes.
        folder: Folder for metrics and notes that the parent process reads (`layout`). A file `STOP` in it asks every
            rank to save its state and stop.
        after_step: Called after each step.
    """

    def __init__(
        self, args: argparse.Namespace, options: WorkerOptions, folder: Path, *, after_step: Callable[[], None]
    ) -> None:
        self._args = args
        self._options = options
        self._folder = folder
        self._notify = after_step
        self._output = Path(args.output_dir)
        self._selection = Selection(options)
        self._states = FullStates(
            self._output / STATES,
            keep=options.keep_full_states,
            state_id=options.state_id,
            layout=run_layout(args, options),
            seed=args.seed,
            metrics=folder / METRICS,
            in_background=options.async_states,
            selection=self._selection,
        )
        self._position = Position()
        self._saving: dict[str, float] = {}
        self._compiled = compilation.Notes(folder if options.compile_layers else None)

    @contextmanager
    def patched_library(self) -> Iterator[None]:
        """Replace steps of the library's loop until the block ends."""
        from instructlab.training import accelerator, main_ds, sampler

        manager = main_ds.BatchLossManager
        self._models = SavedModels(self._args, self._options, main_ds.save_checkpoint)
        loop, batch_size = self, self._args.effective_batch_size
        sampler_class = loader.resuming_sampler(
            sampler.EpochSampler, lambda: loop._position.steps_in_epoch * batch_size, self._rows_of
        )
        with patched(
            (sampler, "EpochSampler", sampler_class),
            (main_ds, "get_data_loader", self._hooked_loaders(main_ds.get_data_loader)),
            (main_ds, "load_latest_full_state", self._resume),
            (main_ds, "train", self._with_trackers(main_ds.train)),
            (manager, "process_batch", lambda self, batch, interrupt_check=None: loop._process(self, batch)),  # noqa: ARG005
            (accelerator.Accelerator, "take_optimizer_step", lambda self: loop._optimizer_step(self)),
            (main_ds, "save_checkpoint", self._end_epoch),
            *by_source.patches(self._options.sources),
            *row_split.patches(self._options.rows_file),
        ):
            yield

    def _hooked_loaders(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def get_data_loader(*args: Any, **kwargs: Any) -> Any:
            if self._options.data_seed is not None:
                kwargs["seed"] = self._options.data_seed
            training, split = make(*args, **kwargs)
            self._validation = Validation(self._options, training, split)
            self._selection.check(split)
            self._steps_per_epoch, self._num_rows = len(training), len(training.dataset)
            self._measure_length()
            return loader.BatchHook(training, self._after_step), None

        return get_data_loader

    def _measure_length(self) -> None:
        """Give the library's loop the epochs that are begun: it knows of no others (main_ds.py:219@0.16.2)."""
        args, options = self._args, self._options
        self._length = training_length(self._num_rows, args.effective_batch_size, options.num_epochs, options.max_steps)
        args.num_epochs = self._length.num_epochs

    def num_steps(self) -> int:
        """Return the optimizer steps of the whole training, once the data is loaded."""
        return self._length.num_steps

    def _rows_of(self, epoch: int) -> int:
        """Return how many samples of an epoch are trained."""
        return self._length.rows_of_last if epoch + 1 == self._length.num_epochs else self._num_rows

    def _resume(self, args: argparse.Namespace, accelerator: Any) -> None:
        import torch.distributed as dist

        resumed = self._states.load(accelerator)
        self._position = resumed.position
        args.current_epoch, args.samples_seen = self._position.epoch, self._position.samples_seen
        self._is_main = dist.get_rank() == 0
        if self._is_main:
            self._models.forget_later(self._position.samples_seen)
            write_atomically(self._folder / METRICS, resumed.metrics)
            length = {"num_steps": self._length.num_steps, "num_epochs": self._length.num_epochs}
            note = {**length, "damaged": resumed.damaged}
            note |= {"attention": varlen.in_use(self._options), "slower": varlen.slower(self._options)}
            write_json(self._folder / RESUMED, {**asdict(self._position), **note})
            with (self._folder / RESUMES).open("a" if self._position.step else "w", encoding="utf-8") as file:
                file.write(f'{{"step": {self._position.step}}}\n' if self._position.step else "")

    def _with_trackers(self, train: Callable[..., None]) -> Callable[..., None]:
        def train_with_trackers(args: argparse.Namespace, model: Any, accelerator: Any, **rest: Any) -> None:
            self._model, self._accelerator = model, accelerator
            options = self._options
            with (
                Trackers(
                    options.trackers if self._is_main else (),
                    folder=self._folder,
                    work=self._output,
                    project=options.project,
                    run_name=options.run_name,
                    root=Path(options.run_root) if options.run_root else self._folder,
                    settings=vars(args),
                    step=self._position.step,
                ) as self._trackers,
                tracing(options, self._folder, self._length.num_steps, self._is_main) as self._profiler,
            ):
                self._profiler.reached(self._position.step)
                self._began = time.perf_counter()
                train(args, model=model, accelerator=accelerator, **rest)

        return train_with_trackers

    def _process(self, manager: Any, batch: list[Any]) -> Any:
        """Run forward and backward of a batch; refuse a loss that is not finite before it reaches the weights."""
        self._batch = facts = processing.process(
            manager,
            batch,
            max_grad_norm=self._options.max_grad_norm,
            asked_to_stop=(self._folder / STOP).exists(),
        )
        for what, value in (("loss", facts.loss), ("gradient norm", facts.gradient_norm)):
            if not math.isfinite(value):
                raise self._not_finite(what, value)
        return processing.upstream_metrics(facts, len(batch)), facts.loss

    def _optimizer_step(self, accelerator: Any) -> None:
        """Replace upstream's step (accelerator.py:289@0.16.2): gradients are clipped already, to the recipe's norm."""
        accelerator.optimizer.step()
        accelerator.lr_scheduler.step()
        accelerator.optimizer.zero_grad()

    def _not_finite(self, what: str, value: float) -> StageError:
        return StageError(
            f"the {what} is {value} at step {self._position.step + 1} (epoch {self._position.epoch})",
            fix="lower training.learning_rate, raise training.warmup_steps, or set training.precision=fp32",
        )

    def _after_step(self) -> None:
        """Write metrics, validate and save after a step, on every rank."""
        self._notify()
        self._states.check()
        before, options, batch = self._position, self._options, self._batch
        self._position = replace(
            before,
            step=before.step + 1,
            steps_in_epoch=before.steps_in_epoch + 1,
            samples_seen=before.samples_seen + batch.num_samples,
        )
        row = step_row(
            self._position,
            batch,
            seconds=time.perf_counter() - self._began,
            learning_rate=self._accelerator.lr_scheduler.get_last_lr()[0],
            options=options,
        )
        row |= self._saving
        self._saving = {}
        if (written := self._states.written_seconds()) is not None:
            row["state_written_seconds"] = written
        is_last = self._position.step == self._length.num_steps
        ends_with_it = is_last and (self._selection.is_on or bool(self._validation.sets))
        if self._validation and (ends_with_it or self._is_due(options.validation_frequency)):
            row |= self._validation.measure(self._model, self._accelerator.device)
            if self._selection.is_on:
                self._selection.judge(row, self._accelerator)
        row |= self._compiled.of_step(is_main=self._is_main)
        if self._is_main:
            with (self._folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if lost := self._trackers.log(row):
                write_json(self._folder / UNTRACKED, lost)
        every = options.save_samples
        is_kept = bool(every) and self._position.samples_seen // every > before.samples_seen // every
        if is_kept and (self._selection.is_on or not is_last):
            may_be_final = is_last or self._selection.is_over
            self._models.save(self._accelerator, self._model, self._position.samples_seen, may_be_final=may_be_final)
        if self._selection.is_over and not is_last:
            self._finish(stopped_early=True)
            raise EndedEarly
        if batch.stop or (options.checkpoint_every_steps and self._is_due(options.checkpoint_every_steps)):
            self._save_state(wait=batch.stop)
        if batch.stop:
            if self._is_main:
                write_json(self._folder / STOPPED, asdict(self._position))
            raise StopRequested
        self._profiler.reached(self._position.step)
        self._began = time.perf_counter()

    def _is_due(self, every_steps: int | None) -> bool:
        """Return whether a number of steps has passed since the last time; None = whether the epoch has ended."""
        position = self._position
        if every_steps:
            return position.step % every_steps == 0
        return position.steps_in_epoch == self._steps_per_epoch or position.step == self._length.num_steps

    def _end_epoch(self, *, epoch: int, samples_seen: int, **_rest: Any) -> None:
        """Replace the library's `save_checkpoint`, which is called at the end of each epoch.

        Raises:
            StageError: A row of the training split was not seen, or seen twice.
        """
        before, wanted = epoch * self._num_rows, self._rows_of(epoch)
        if not samples_seen == self._position.samples_seen == before + wanted:
            seen = self._position.samples_seen - before
            raise StageError(f"epoch {epoch} saw {seen} samples, but the training takes {wanted} of it")
        is_last = epoch + 1 == self._args.num_epochs
        if not is_last and self._options.checkpoint_at_epoch:
            self._models.save(self._accelerator, self._model, samples_seen)
        self._position = replace(self._position, epoch=epoch + 1, steps_in_epoch=0)
        if is_last:
            self._finish(stopped_early=False)
        elif self._options.full_state_at_epoch:
            self._save_state()
        self._began = time.perf_counter()

    def _finish(self, *, stopped_early: bool) -> None:
        """Save the model that the training ends with, and say so to the process that watches."""
        position, best = self._position, self._selection.standing
        chooses_earlier = self._selection.is_on and best.step < position.step
        if not chooses_earlier:
            self._models.save(self._accelerator, self._model, position.samples_seen, may_be_final=True)
        else:
            if self._options.checkpoint_at_epoch:
                self._models.save(self._accelerator, self._model, position.samples_seen)
            self._models.trim(self._accelerator)
            self._selection.restore(self._accelerator)
            self._models.save_chosen(self._accelerator, self._model, best.samples_seen)
        self._states.finish()
        if self._is_main:
            counts = {"num_rows": self._num_rows, "num_validation_rows": self._validation.num_split_samples}
            facts = {**counts, "stretches": self._states.stretches}
            chosen = self._selection.result(self._length.num_steps, stopped_early=stopped_early)
            write_json(self._folder / FINISHED, {**asdict(position), **facts, **chosen})

    def _save_state(self, *, wait: bool = False) -> None:
        """Save the full state; the next row of the metrics says how long the ranks waited for it."""
        began = time.perf_counter()
        self._states.save(self._accelerator, self._position, wait=wait)
        self._saving["state_seconds"] = time.perf_counter() - began
