"""What of configuration and environment determines what each stage makes, besides its inputs, as plain data.

No more, or work is done twice; no less, or a stale result is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sft.adapters.local_files import local_path
from sft.config.environment_names import may_change_numbers
from sft.config.schema import (
    AdapterUse,
    BaseQuantization,
    ColumnsConfig,
    Compile,
    EvalBackend,
    LoraConfig,
    LrScheduler,
    ModelConfig,
    ModelSource,
    RunConfig,
    ScheduleConfig,
    SelectConfig,
    SelectMode,
    TrainingConfig,
    WeightDecayOn,
)
from sft.planning.environment import Environment
from sft.planning.resources import NOT_IN_THE_WEIGHTS

_NOT_IN_THE_ROWS = {"sources", "mixing", "mixing_temperature", "stop"}
"""Dataset settings that say how sources are mixed once their rows are tokens."""


def dataset(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    """Return what determines the dataset stage, also of a held-out set."""
    own = {k: v for k, v in _plain(cfg.dataset).items() if k not in _NOT_IN_THE_ROWS}
    own["source_version"] = environment.dataset_version
    own["columns"] = _columns(cfg.dataset.columns)
    if cfg.dataset.sources:  # how often each is trained is the tokenize stage's
        own["sources"] = {
            name: {key: value for key, value in _plain(source).items() if key not in ("weight", "epochs")}
            | {"columns": _columns(source.columns)}
            for name, source in cfg.dataset.sources.items()
        }
    if cfg.dataset.decontaminate:
        tasks = cfg.eval.tasks if cfg.eval.enabled else []
        lm_eval = environment.versions.get("lm-eval", "")
        own["decontaminate"] = {
            "tasks": tasks,
            "holdouts": [*cfg.eval.holdouts],
            "include_path": environment.tasks_version,
            "lm-eval": lm_eval,
        }
    return own


def _columns(cfg: ColumnsConfig) -> dict[str, str]:
    """Return the names of columns, without that of raw text where it has its default, as before there was one."""
    columns: dict[str, str] = _plain(cfg)
    return {name: column for name, column in columns.items() if name != "text" or column != ColumnsConfig().text}


def model(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    """Return what determines the model stage."""
    unused = "scratch" if cfg.model.source is ModelSource.pretrained else "name_or_path"
    own = _plain(cfg.model)
    if cfg.model.adapter is None:  # as before there were any
        del own["adapter"]
    if cfg.model.adapter_use is AdapterUse.merged:
        del own["adapter_use"]
    return {**own, unused: None, "source_version": environment.model_version}


def tokenize(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the tokenize stage."""
    training, data = _plain(cfg.training), _plain(cfg.dataset)
    own = {
        **{name: training[name] for name in ("max_seq_len", "train_on", "train_on_reasoning")},
        **{name: data[name] for name in ("on_invalid", "on_unrendered")},
    }
    if cfg.training.on_too_long is not None:
        own["on_too_long"] = training["on_too_long"]
    if cfg.dataset.sources:
        own |= {f"dataset.{name}": data[name] for name in ("mixing", "mixing_temperature", "stop", "seed")}
        own |= {
            f"dataset.sources.{name}": {"weight": source.weight, "epochs": source.epochs}
            for name, source in cfg.dataset.sources.items()
        }
    return own


_NOT_IN_A_CHECKPOINT = {
    "env",
    "on_too_long",
    "allow_any_env",
    "full_state_at_epoch",
    "checkpoint_every_steps",
    "keep_full_states",
    "async_states",
    "state_uri",
    "stall_timeout_seconds",
    "max_restarts",
    "tracking",
    "callbacks",
    "launcher",
}
"""Training settings that say how a result is got, not what it is; or that the tokens' digest tells of."""

_RESOLVED = {
    "fsdp",
    "precision",
    "attention",
    "compile",
    "use_liger",
    "gradient_checkpointing",
    "max_tokens_per_gpu",
    "context_parallel",
    "num_loader_workers",
}
"""Training settings that count as what `Resources` made of them."""


def train(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    """Return what determines the train stage."""
    without = (
        {"max_steps"} | _NOT_IN_A_CHECKPOINT | _RESOLVED | (set() if cfg.training.profile.first_step else {"profile"})
    )
    ended_elsewhere = cfg.training.lr_scheduler is LrScheduler.polynomial  # before it had a setting for it: at 1e-7
    if cfg.training.schedule == ScheduleConfig() and not ended_elsewhere:
        without |= {"schedule"}
    own = {k: v for k, v in _plain(cfg.training).items() if k not in without}
    own |= {**_length(cfg.training), "learning_rate": cfg.training.rate(), "select": _selection(cfg.training)}
    own = _without_untouched(own, cfg.training, environment.versions)
    if numeric := {name: value for name, value in cfg.training.env.items() if may_change_numbers(name)}:
        own["env"] = numeric
    if cfg.training.lora.rank:
        own["lora"]["adapted_model"] = _adapted_model(cfg.model)
    resources = environment.resources.settings() if environment.resources else {}
    unsaid = NOT_IN_THE_WEIGHTS | ({"compile"} if resources.get("compile") == Compile.none.value else set())
    return {**own, "resources": {k: v for k, v in resources.items() if k not in unsaid}}


def _adapted_model(cfg: ModelConfig) -> str:
    """Return what an adapter names as its base: of two equal folders one may be gone tomorrow."""
    if cfg.source is ModelSource.scratch:
        return ModelSource.scratch.value
    folder = local_path(cfg.name_or_path)
    return str(folder.resolve()) if folder.is_dir() else cfg.name_or_path.partition("@")[0]


_NEWER = {
    *("loss", "label_smoothing", "z_loss", "optimizer", "freeze", "parameter_groups"),
    *("data_seed", "select", "early_stopping", "checkpoint_limit", "validation_sets"),
}
"""Training settings that do at their default what was done before there were any."""


def _without_untouched(own: dict[str, Any], cfg: TrainingConfig, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return settings less those that leave a training what it was, so that it has the key that it had."""
    untouched = _plain(TrainingConfig())
    without = {name for name in _NEWER if own[name] == untouched[name]}
    decays = cfg.weight_decay or any(group.weight_decay for group in cfg.parameter_groups.values())
    if not decays or cfg.weight_decay_on is WeightDecayOn.all:
        without |= {"weight_decay_on"}
    if cfg.lora.rank:
        own["lora"] = _lora(own["lora"])
        if cfg.lora.quantize is not BaseQuantization.none:
            own["lora"]["bitsandbytes"] = versions.get("bitsandbytes", "")
    else:
        own["lora"] = {name: value for name, value in own["lora"].items() if name in _FIRST_OF_LORA}
    return {name: value for name, value in own.items() if name not in without}


def _selection(cfg: TrainingConfig) -> dict[str, Any]:
    """Return what a training's own choice of a step is determined by: one by scores is made after it."""
    if cfg.select.validated is None:
        return _plain(SelectConfig())
    return {"metric": cfg.select.validated, "mode": (cfg.select.mode or SelectMode.min).value}


_FIRST_OF_LORA = ("rank", "alpha", "dropout", "target_modules")


def _lora(own: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of adapters, less newer ones at their default; what all layers are has changed."""
    untouched = _plain(LoraConfig())
    newer = {name: value for name, value in own.items() if name not in _FIRST_OF_LORA and value != untouched[name]}
    targets = "all-linear" if own["target_modules"] is None else own["target_modules"]
    return {name: own[name] for name in _FIRST_OF_LORA} | newer | {"target_modules": targets}


def _length(cfg: TrainingConfig) -> dict[str, Any]:
    """Return what determines how long a training is, where one of whole epochs has the key that it had."""
    if cfg.max_steps is not None:
        return {"num_epochs": None, "max_steps": cfg.max_steps}
    return {"num_epochs": int(cfg.num_epochs) if float(cfg.num_epochs).is_integer() else cfg.num_epochs}


_NOT_IN_A_SCORE = {
    "num_processes",
    *("allow_task_code", "baseline", "confidence", "enabled", "gates", "judge", "no_regression", "verbosity"),
    *("vllm", "every_epochs", "epoch_tasks", "epoch_holdouts"),
}
"""Evaluation settings that say what becomes of a score, or what may make it, not what it is."""


def evaluate(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    """Return what determines the evaluate stage."""
    own = {name: value for name, value in _plain(cfg.eval).items() if name not in _NOT_IN_A_SCORE}
    if cfg.eval.backend is EvalBackend.vllm:
        where_it_is = {"python", "startup_seconds"}
        own["vllm"] = {k: v for k, v in _plain(cfg.eval.vllm).items() if k not in where_it_is}
        own["vllm"]["version"] = environment.vllm_version
    if cfg.eval.backend is EvalBackend.local_chat_completions:  # nobody knows which model it has: each run asks anew
        own["server_asked"] = environment.server_asked
    own["holdout"]["metrics"] = cfg.eval.holdout.scored()
    return {
        **own,
        "holdouts": [*cfg.eval.holdouts],  # their rows are inputs
        "writes_answers": cfg.eval.writes_answers(),
        "include_path": environment.tasks_version,
        "device": environment.device,
    }


def judge(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the judge stage."""
    how_it_is_asked = {"key_env", "concurrency", "timeout_seconds", "max_attempts", "max_unparsable", "holdouts"}
    own = {k: v for k, v in _plain(cfg.eval.judge).items() if k not in how_it_is_asked}
    return {"judge": own, "seed": cfg.eval.seed}


def select(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the select stage."""
    return {"select": _plain(cfg.training.select)}


def compare(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the compare stage."""
    return {"confidence": cfg.eval.confidence}


def gates(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the gates stage."""
    return {"gates": cfg.eval.gates, "no_regression": cfg.eval.no_regression}


def package(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the package stage."""
    return {name: value for name, value in _plain(cfg).items() if name not in {"run_root", "sweep"}}


def upload(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the upload stage."""
    return {"upload": cfg.registry.upload}


def register(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    """Return what determines the register stage."""
    return _plain(cfg.registry)


def _plain(group: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(group)
    return plain
