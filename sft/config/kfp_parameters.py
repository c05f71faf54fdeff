"""The parameters of the Kubeflow pipeline that `sft` grew out of: the setting that each of them is here.

Its names work as overrides of any recipe and are the parameters of our own pipeline. Their defaults are a recipe's
(``recipes/kfp.yaml`` has the original's).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem

_NOT_PLAIN = re.compile(r"[,'\"\\]|^\s|\s$|^\{")
"""What a pair of ``KEY=VALUE,KEY=VALUE`` can't hold as it is."""
_BEFORE_QUOTE = re.compile(r"(?<!\\)(\\++)(?='|$)")


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: As the original spells it.
        key: The setting.
        kind: Type of its values.
        null: The value that stands for null; None where there is none.
        is_pairs: Whether a mapping is spelled ``KEY=VALUE,KEY=VALUE``, or as JSON, where values may have commas.
        is_second: Whether it is another name of the one before; in a pipeline, where every parameter has a value, 0
            says that it is not used.
    """

    name: str
    key: str
    kind: type
    null: str | int | None = None
    is_pairs: bool = False
    is_second: bool = False

    def override(self, value: str) -> str:
        """Return the setting's override for a value as a person types it.

        Raises:
            ConfigError: A mapping is neither pairs nor JSON.
        """
        plain = value.strip("'\"")
        if self.null is not None and plain == str(self.null):
            value = "null"
        elif self.is_pairs:
            pairs = self._pairs(_unquoted(value))
            value = "{" + ",".join(f"{name}: {hydra_text(text)}" for name, text in pairs.items()) + "}"
        return f"{self.key}={value}"

    def _pairs(self, text: str) -> dict[str, str]:
        rule, fix = "must be KEY=VALUE,KEY=VALUE", 'a value with a comma is written as JSON: {"KEY": "A,B"}'
        refused = ConfigError([Problem(key=self.name, value=text, rule=rule, suggestion=fix)])
        if text.lstrip().startswith("{"):
            try:
                return {name: str(value) for name, value in json.loads(text).items()}
            except ValueError as error:
                raise refused from error
        pairs = [pair.partition("=") for pair in text.split(",") if pair]
        if any(not equals for _, equals, _ in pairs):
            raise refused
        return {name.strip(): value for name, _, value in pairs}

    def value(self, cfg: RunConfig) -> Any:
        """Return what a configuration has for it, in the original's spelling; 0 for a second name."""
        if self.is_second:
            return 0
        found: Any = cfg
        for part in self.key.split("."):
            found = getattr(found, part)
        if found is None:
            return self.null
        if self.is_pairs and isinstance(found, dict):
            is_plain = not any(_NOT_PLAIN.search(text) for pair in found.items() for text in pair)
            return ",".join(f"{name}={text}" for name, text in found.items()) if is_plain else json.dumps(found)
        plain = found.value if isinstance(found, Enum) else found
        return self.kind(plain) if self.kind in {str, int, float} else plain


_ALL = (
    Parameter("phase_01_dataset_man_data_uri", "dataset.uri", str),
    Parameter("phase_01_dataset_man_data_split", "dataset.train_split", float),
    Parameter("phase_01_dataset_opt_subset", "dataset.max_samples", int, null=0),
    Parameter("phase_02_train_man_model", "model.name_or_path", str),
    Parameter("phase_02_train_man_batch", "training.effective_batch_size", int, null=0),
    Parameter("phase_02_train_man_train_batch", "training.effective_batch_size", int, is_second=True),
    Parameter("phase_02_train_man_epochs", "training.num_epochs", float),
    Parameter("phase_02_train_man_tokens", "training.max_tokens_per_gpu", int, null=0),
    Parameter("phase_02_train_man_workers", "training.launcher.num_workers", int),
    Parameter("phase_02_train_man_gpu", "training.launcher.gpus_per_worker", int, null=-1),
    Parameter("phase_02_train_opt_annotations", "training.launcher.annotations", str, is_pairs=True),
    Parameter("phase_02_train_opt_cpu", "training.launcher.cpu", str, null="auto"),
    Parameter("phase_02_train_opt_env_vars", "training.env", str, is_pairs=True),
    Parameter("phase_02_train_opt_fsdp_sharding", "training.fsdp.sharding_strategy", str),
    Parameter("phase_02_train_opt_labels", "training.launcher.labels", str, is_pairs=True),
    Parameter("phase_02_train_opt_learning_rate", "training.learning_rate", float),
    Parameter("phase_02_train_opt_lr_scheduler", "training.lr_scheduler", str),
    Parameter("phase_02_train_opt_lr_warmup", "training.warmup_steps", int),
    Parameter("phase_02_train_opt_max_seq_len", "training.max_seq_len", int),
    Parameter("phase_02_train_opt_memory", "training.launcher.memory", str, null="auto"),
    Parameter("phase_02_train_opt_num_procs", "training.launcher.procs_per_worker", str, null="auto"),
    Parameter("phase_02_train_opt_runtime", "training.launcher.runtime", str),
    Parameter("phase_02_train_opt_save_epoch", "training.checkpoint_at_epoch", bool),
    Parameter("phase_02_train_opt_save_full_state", "training.full_state_at_epoch", bool),
    Parameter("phase_02_train_opt_save_samples", "training.save_samples", int),
    Parameter("phase_02_train_opt_seed", "training.seed", int),
    Parameter("phase_02_train_opt_use_liger", "training.use_liger", bool),
    Parameter("phase_03_eval_man_tasks", "eval.tasks", list),
    Parameter("phase_03_eval_opt_batch", "eval.batch_size", str),
    Parameter("phase_03_eval_opt_gen_kwargs", "eval.gen_kwargs", dict),
    Parameter("phase_03_eval_opt_limit", "eval.limit", int, null=-1),
    Parameter("phase_03_eval_opt_log_samples", "eval.log_samples", bool),
    Parameter("phase_03_eval_opt_model_args", "eval.model_args", dict),
    Parameter("phase_03_eval_opt_verbosity", "eval.verbosity", str),
    Parameter("phase_04_registry_man_address", "registry.address", str),
    Parameter("phase_04_registry_man_author", "registry.author", str),
    Parameter("phase_04_registry_man_name", "registry.model_name", str),
    Parameter("phase_04_registry_man_version", "registry.model_version", str),
    Parameter("phase_04_registry_opt_description", "registry.description", str),
    Parameter("phase_04_registry_opt_format_name", "registry.model_format_name", str),
    Parameter("phase_04_registry_opt_format_version", "registry.model_format_version", str),
    Parameter("phase_04_registry_opt_port", "registry.port", int, null=0),
)
PARAMETERS = {parameter.name: parameter for parameter in _ALL}
"""By name, in the order of the original's phases; the batch has two names."""

_SIBLINGS = {
    "phase_02_train_man_train_epochs": "phase_02_train_man_epochs",
    "phase_02_train_man_train_gpu": "phase_02_train_man_gpu",
    "phase_02_train_man_train_model": "phase_02_train_man_model",
    "phase_02_train_man_train_tokens": "phase_02_train_man_tokens",
    "phase_02_train_man_train_workers": "phase_02_train_man_workers",
    "phase_03_eval_man_eval_tasks": "phase_03_eval_man_tasks",
    "phase_04_registry_man_reg_author": "phase_04_registry_man_author",
    "phase_04_registry_man_reg_name": "phase_04_registry_man_name",
    "phase_04_registry_man_reg_version": "phase_04_registry_man_version",
}
SIBLINGS = {
    **{name: replace(PARAMETERS[own], name=name) for name, own in _SIBLINGS.items()},
    "phase_02_train_man_lora_r": Parameter("phase_02_train_man_lora_r", "training.lora.rank", int),
    "phase_02_train_man_lora_alpha": Parameter("phase_02_train_man_lora_alpha", "training.lora.alpha", int),
    "phase_02_train_opt_lora_dropout": Parameter("phase_02_train_opt_lora_dropout", "training.lora.dropout", float),
}
"""By the names that the original's siblings (`sft_minimal`, `lora`) have for them, as overrides."""


def translated(override: str) -> str:
    """Return an override with the original's name as one of the setting; any other as it is."""
    name, equals, value = override.partition("=")
    parameter = PARAMETERS.get(name) or SIBLINGS.get(name)
    return parameter.override(value) if parameter and equals else override


def hydra_text(value: object) -> str:
    """Return a value as Hydra's grammar spells it, quoted so that no text of it means anything else."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case list():
            return "[" + ",".join(hydra_text(item) for item in value) + "]"
        case dict():
            return "{" + ",".join(f"{name}: {hydra_text(item)}" for name, item in value.items()) + "}"
    return str(value)


def _unquoted(value: str) -> str:
    """Return a value without the quotes of Hydra's grammar around it, if it has some."""
    quote = value[:1]
    if quote not in ("'", '"') or len(value) < 2 or value[-1] != quote:
        return value
    return re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])


def quoted(text: str) -> str:
    """Return text in Hydra's quotes."""
    escaped = _BEFORE_QUOTE.sub(r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"
