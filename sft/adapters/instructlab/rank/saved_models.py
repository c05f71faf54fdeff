"""Owns the models that a training saves, in Hugging Face layout, and how many of those on the way stay."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_writer
from sft.adapters.instructlab.layout import CHOSEN, MODELS
from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.patched import patched

_PREFIX = "samples_"


class SavedModels:
    """The models of a training, each in ``hf_format/samples_<N>``. Every method is called by all ranks together.

    Args:
        args: Arguments of the library.
        options: Settings that the library lacks.
        save: The library's `save_checkpoint`.
    """

    def __init__(self, args: argparse.Namespace, options: WorkerOptions, save: Callable[..., None]) -> None:
        self._args, self._options, self._save = args, options, save
        self._folder = Path(args.output_dir) / MODELS
        self._saved = -1

    def forget_later(self, samples_seen: int) -> None:
        """Remove models that an earlier try has saved after the place from which this one goes on: it saves its own."""
        for model in self._on_disk():
            if _samples_of(model) > samples_seen:
                shutil.rmtree(model)

    def save(self, accelerator: Any, model: Any, samples_seen: int, *, may_be_final: bool = False) -> None:
        """Save the model as it is now, unless it was; of those on the way, no more than the newest stay.

        Args:
            accelerator: The library's.
            model: The library's, and
            samples_seen: after how many samples.
            may_be_final: Whether the training may end with it, so that it is none of those on the way.
        """
        if self._saved != samples_seen:
            self._saved = samples_seen
            self._write(self._args, accelerator, model, samples_seen)
        self.trim(accelerator, besides=int(may_be_final))

    def trim(self, accelerator: Any, *, besides: int = 0) -> None:
        """Remove the oldest models beyond those that stay.

        Args:
            accelerator: The library's.
            besides: How many of the newest count for none of them.
        """
        limit = self._options.checkpoint_limit
        if limit is not None and accelerator.is_main_process:
            for older in self._on_disk()[limit + besides :]:
                shutil.rmtree(older)

    def save_chosen(self, accelerator: Any, model: Any, samples_seen: int) -> None:
        """Save the model, which holds the weights of an earlier step, where no model on the way lies."""
        folder = str(Path(self._args.output_dir) / CHOSEN)
        args = argparse.Namespace(**{**vars(self._args), "output_dir": folder})
        self._write(args, accelerator, model, samples_seen)

    def _on_disk(self) -> list[Path]:
        """Return the models on the disk, the newest first."""
        return sorted(self._folder.glob(f"{_PREFIX}*"), key=_samples_of, reverse=True)

    def _write(self, args: argparse.Namespace, accelerator: Any, model: Any, samples_seen: int) -> None:
        with patched((accelerator, "save_model", self._save_weights(accelerator))):
            self._save(
                args=args,
                accelerator=accelerator,
                model=model,
                tokenizer=model.tokenizer,
                samples_seen=samples_seen,
                is_lora=bool(args.lora_r),
            )

    def _save_weights(self, accelerator: Any) -> Callable[..., None]:
        """Return what replaces accelerate's `save_model`, which the library calls last (utils.py:810@0.16.2)."""
        upstream = accelerator.save_model

        def save_model(model: Any, save_directory: Path, **rest: Any) -> None:
            if isinstance(model, dict):  # converted by the library to a type of its own: gpt-oss, FP8
                upstream(model, save_directory=save_directory, **rest)
                return
            state = accelerator.get_state_dict(model.model)
            if accelerator.is_main_process:
                base, folder, save_dtype = self._args.model_name_or_path, Path(save_directory), self._options.save_dtype
                checkpoint_writer.save_weights(model.module, state, folder, base=Path(base), save_dtype=save_dtype)

        return save_model


def _samples_of(model: Path) -> int:
    return int(model.name.removeprefix(_PREFIX))
