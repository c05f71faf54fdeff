"""Rules across fields. Pure: no file, no network, no library. Every problem is returned, none is raised."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sft.config.adapter_checks import check_adapters, check_model_adapter, trains_embeddings
from sft.config.compile_checks import check_compile
from sft.config.dataset_checks import check_dataset
from sft.config.epoch_checks import check_epochs
from sft.config.holdout_checks import check_holdout, check_processes, check_prompts
from sft.config.judge_checks import check_judge, check_judge_gates
from sft.config.launcher_checks import check_launcher
from sft.config.optimization_checks import check_optimization
from sft.config.registry_checks import check_registry
from sft.config.schedule_checks import check_schedule
from sft.config.schema import (
    HOLDOUT,
    Attention,
    EvalBackend,
    EvalConfig,
    ModelConfig,
    ModelSource,
    OnTooLong,
    RunConfig,
    ScratchConfig,
    Tracker,
    TrackingConfig,
    TrainingConfig,
    TrainOn,
)
from sft.config.schema.bounds import out_of_bounds, within_bounds
from sft.config.selection_checks import check_selection
from sft.config.state_checks import check_states
from sft.config.validation_checks import check_validation
from sft.config.vllm_checks import check_vllm
from sft.errors import Problem
from sft.gate_rules import GateKind, parse_gates
from sft.known_secrets import is_secret_name
from sft.redaction import redact
from sft.scores import CORPUS_METRICS, JUDGE, WIN_RATE

_SCRATCH = "model.scratch"
_WANDB_REFUSES = "/\\#?%:"
_WANDB_LONGEST = 128
_TEMPLATE_INPUTS = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
_SAID_BY_THE_MODEL = {
    "pretrained": "which model is scored",
    "trust_remote_code": "model.trust_remote_code",
    "enable_thinking": "model.chat_template_kwargs",
    "chat_template_args": "model.chat_template_kwargs",
}

_NAMES_CODE = re.compile(
    r"\.(custom_generate|trust_remote_code|code_revision|peft|delta|autogptq|gptqmodel|executor\w*|\w*_executor_backend|"
    r"weights_only|use_safetensors|use_kernels|kernel_\w+|adapter_\w+|subfolder|variant|gguf_file|state_dict|"
    r"(kv|ec)_\w+_config|\w+_(cls|class|plugins?|module|module_path|overrides|processors?))(\.|$)"
)
"""Arguments with which transformers and vLLM load code, or weights that nobody has checked."""


def check(cfg: RunConfig) -> list[Problem]:
    """Return all problems of a composed configuration; an empty list when it can run."""
    problems = list(out_of_bounds(cfg))
    told = {problem.key for problem in problems}
    between = _between(within_bounds(cfg) if problems else cfg, told)
    return [*problems, *(problem for problem in between if problem.key not in told)]


def _between(cfg: RunConfig, told: set[str]) -> Iterator[Problem]:
    """Yield what is wrong between settings, each within its bounds; those that were not are `told` already."""
    yield from check_dataset(cfg)
    yield from _training(cfg.training)
    yield from _chat_template(cfg.model)
    yield from _add_tokens(cfg)
    yield from check_model_adapter(cfg.model, cfg.training)
    if cfg.model.source is ModelSource.scratch and not any(key.startswith(_SCRATCH) for key in told):
        yield from _scratch(cfg.model.scratch)
    yield from _eval(cfg.eval)
    yield from check_epochs(cfg)
    yield from check_states(cfg)
    yield from check_validation(cfg)
    yield from check_selection(cfg)
    yield from check_judge(cfg)
    yield from check_registry(cfg.registry)
    yield from _secrets(cfg)


def _training(cfg: TrainingConfig) -> Iterator[Problem]:
    longest = None if cfg.max_tokens_per_gpu is None else cfg.max_tokens_per_gpu * cfg.context_parallel
    if longest is not None and cfg.max_seq_len > longest:
        ranks = f" on each of training.context_parallel={cfg.context_parallel} ranks"
        yield Problem(
            key="training.max_seq_len",
            value=str(cfg.max_seq_len),
            rule=f"a sample must fit into training.max_tokens_per_gpu={cfg.max_tokens_per_gpu}"
            f"{ranks if cfg.context_parallel > 1 else ''}",
            suggestion=f"try training.max_seq_len={longest}",
        )
    if cfg.context_parallel > 1 and cfg.attention not in {Attention.auto, Attention.varlen}:
        yield Problem(
            key="training.attention",
            value=cfg.attention.value,
            rule=f"training.context_parallel={cfg.context_parallel} is for torch's own attention over packed rows",
            suggestion="try training.attention=varlen",
        )
    if cfg.train_on is TrainOn.last_turn and cfg.on_too_long in (OnTooLong.truncate, OnTooLong.split_turns):
        key, value = "training.on_too_long", cfg.on_too_long.value
        rule = "would leave out the end of a conversation, of which training.train_on=last_turn trains the last turn"
        yield Problem(key=key, value=value, rule=rule, suggestion=f"try {key}=drop")
    yield from check_adapters(cfg)
    yield from check_schedule(cfg)
    yield from check_compile(cfg)
    yield from check_optimization(cfg)
    yield from _tracking(cfg.tracking)
    yield from _repeated("training.callbacks", cfg.callbacks)
    yield from check_launcher(cfg)


def _repeated(key: str, names: Sequence[str]) -> Iterator[Problem]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem(key=key, value=name, rule="is named twice")


def _tracking(cfg: TrackingConfig) -> Iterator[Problem]:
    yield from _repeated("training.tracking.trackers", [tracker.value for tracker in cfg.trackers])
    is_refused = len(cfg.project) > _WANDB_LONGEST or {*cfg.project} & {*_WANDB_REFUSES}
    if Tracker.wandb in cfg.trackers and is_refused:  # wandb_settings.py:validate_project
        rule = f"names a project in W&B, which takes {_WANDB_LONGEST} characters and none of {_WANDB_REFUSES}"
        yield Problem(key="training.tracking.project", value=cfg.project, rule=rule)


def _chat_template(cfg: ModelConfig) -> Iterator[Problem]:
    try:
        datetime.date.fromisoformat(cfg.chat_template_date)
    except ValueError:
        rule = "must be a date: YYYY-MM-DD"
        yield Problem(key="model.chat_template_date", value=cfg.chat_template_date, rule=rule)
    if cfg.chat_template is not None and cfg.chat_template_name is not None:
        rule = "says which of the model's own templates, and model.chat_template replaces them; one of the two"
        yield Problem(key="model.chat_template_name", value=cfg.chat_template_name, rule=rule)
    for name in cfg.chat_template_kwargs:
        if not name.isidentifier() or name in _TEMPLATE_INPUTS:
            rule = "is not a variable that a recipe can set in a chat template"
            yield Problem(key=f"model.chat_template_kwargs.{name}", rule=rule)


def _scratch(cfg: ScratchConfig) -> Iterator[Problem]:
    key = _SCRATCH
    if cfg.hidden_size % (2 * cfg.num_attention_heads):
        rule = f"must be a multiple of twice num_attention_heads={cfg.num_attention_heads} (rotary embedding)"
        yield Problem(key=f"{key}.hidden_size", value=str(cfg.hidden_size), rule=rule)
    if cfg.num_attention_heads % cfg.num_key_value_heads:
        rule = f"must divide num_attention_heads={cfg.num_attention_heads}"
        yield Problem(key=f"{key}.num_key_value_heads", value=str(cfg.num_key_value_heads), rule=rule)


def _add_tokens(cfg: RunConfig) -> Iterator[Problem]:
    added = {
        "model.add_tokens.special": cfg.model.add_tokens.special,
        "model.add_tokens.plain": cfg.model.add_tokens.plain,
    }
    everywhere = [token for tokens in added.values() for token in tokens]
    for key, tokens in added.items():
        for token in sorted({token for token in tokens if everywhere.count(token) > 1 or not token.strip()}):
            yield Problem(key=key, value=repr(token), rule="must be a text, and named once")
        if tokens and cfg.model.source is ModelSource.scratch:
            rule = "is for a pretrained model; one from scratch gets a tokenizer of its own"
            yield Problem(key=key, rule=rule, suggestion="leave it out, or set model.scratch.vocab_size")
        if tokens and cfg.model.adapter is not None:
            rule = "is not done to a model with model.adapter, whose adapter knows its own tokens"
            yield Problem(key=key, rule=rule, suggestion="merge it first: sft merge MODEL ADAPTER --output FOLDER")
        if tokens and cfg.training.lora.rank and not trains_embeddings(cfg.training.lora):
            rule = "needs the embedding to be trained, which adapters leave as it is"
            yield Problem(key=key, rule=rule, suggestion="try training.lora.rank=0")


def _eval(cfg: EvalConfig) -> Iterator[Problem]:
    yield from _repeated("eval.tasks", cfg.tasks)
    yield from check_holdout(cfg)
    for name in cfg.model_args.keys() & _SAID_BY_THE_MODEL.keys():
        rule = f"is not for an evaluation to say: see {_SAID_BY_THE_MODEL[name]}"
        yield Problem(key=f"eval.model_args.{name}", rule=rule)
    yield from _code_in_arguments(cfg)
    yield from check_prompts(cfg)
    yield from check_processes(cfg)
    if cfg.backend is EvalBackend.local_chat_completions:
        yield from _served(cfg)
    yield from check_vllm(cfg)
    for name, rules in cfg.gates.items():
        yield from _gates(cfg, name, rules)
    yield from _repeated("eval.no_regression", cfg.no_regression)
    for name in cfg.no_regression:
        yield from _no_regression(cfg, name)


def _code_in_arguments(cfg: EvalConfig) -> Iterator[Problem]:
    """Yield the arguments with which a library would load code."""
    for where, options in {"eval.model_args": cfg.model_args, "eval.gen_kwargs": cfg.gen_kwargs}.items():
        for key, value in _leaves(options, where):
            is_kernel = "implementation" in key and "/" in str(value)
            if (_NAMES_CODE.search(key) or is_kernel) and key.removeprefix(
                "eval.model_args."
            ) not in _SAID_BY_THE_MODEL:
                yield Problem(key=key, value=str(value), rule="would name code to load, and a recipe is data")


def _served(cfg: EvalConfig) -> Iterator[Problem]:
    key, value = "eval.backend", cfg.backend.name
    if "base_url" not in cfg.model_args:
        suggestion = "try eval.model_args.base_url=http://localhost:8000/v1/chat/completions"
        yield Problem(key=key, value=value, rule="needs the server's address", suggestion=suggestion)
    if not cfg.apply_chat_template:
        suggestion = "try eval.apply_chat_template=true"
        yield Problem(key=key, value=value, rule="takes chats, no texts", suggestion=suggestion)


def _gates(cfg: EvalConfig, name: str, rules: str) -> Iterator[Problem]:
    key = f"eval.gates.{name}"
    try:
        gates = parse_gates(rules)
    except ValueError as error:
        yield Problem(key=key, value=rules, rule=str(error))
        return
    if name.partition(".")[0] == JUDGE:
        yield from check_judge_gates(cfg, name, gates)
    elif any(gate.needs_baseline for gate in gates) and not cfg.baseline:
        yield Problem(key=key, value=rules, rule="needs the base model's score", suggestion="try eval.baseline=true")
    elif "." not in name:
        yield Problem(key=key, value=rules, rule="must name a score: task.metric", suggestion=f"try {name}.acc")
    else:
        is_tested = any(gate.kind is GateKind.improvement for gate in gates)
        yield from itertools.islice(_gated(cfg, key, rules, name, is_tested=is_tested), 1)


def _no_regression(cfg: EvalConfig, name: str) -> Iterator[Problem]:
    key = "eval.no_regression"
    if not cfg.baseline:
        yield Problem(key=key, value=name, rule="needs the base model's score", suggestion="try eval.baseline=true")
    elif name.partition(".")[0] == JUDGE:
        rule = "compares with the base model already: it has no such score"
        yield Problem(key=key, value=name, rule=rule, suggestion=f"try eval.gates.{JUDGE}.{WIN_RATE}='>= 0.5'")
    else:
        yield from itertools.islice(_gated(cfg, key, name, name, is_tested=True), 1)


def _gated(cfg: EvalConfig, key: str, value: str, name: str, *, is_tested: bool) -> Iterator[Problem]:
    """Yield why a score can't be held against a gate.

    Args:
        name: Of the score; of `eval.no_regression` perhaps of its task alone.
        is_tested: Whether the gate needs a paired error.
    """
    task, dot, metric = name.partition(".")
    is_held_out = task in {HOLDOUT, *cfg.holdouts}
    if not cfg.enabled:
        yield Problem(key=key, value=value, rule="nothing is scored: eval.enabled=false")
    if is_tested and dot and metric in CORPUS_METRICS and not is_held_out:  # ours have an error, BLEU the jackknife's
        rule = f"needs an error, and {metric} has none: it is no mean over samples"
        yield Problem(key=key, value=value, rule=rule, suggestion="try a gate on the number itself, as '>= 0.6'")
    if is_tested and (cfg.holdout.limit if is_held_out else cfg.limit) == 1:
        limit = "eval.holdout.limit" if is_held_out else "eval.limit"
        yield Problem(key=key, value=value, rule=f"needs an error, and one sample has none: {limit}=1")
    if is_held_out:
        known = held_out_metrics(cfg, task)
        if not known or (dot and metric not in known):
            scores = f"it is scored for {', '.join(known) or 'nothing'}"
            yield Problem(key=key, value=value, rule=f"the held-out set has no such score; {scores}")
    elif not cfg.tasks:
        yield Problem(key=key, value=value, rule="eval.tasks is empty", suggestion=f"try eval.tasks=[{task}]")


def held_out_metrics(cfg: EvalConfig, name: str) -> tuple[str, ...]:
    """Return what a held-out set is scored for; nothing if it isn't scored."""
    return cfg.holdout.scored() if name in cfg.holdouts or cfg.holdout.enabled else ()


def _secrets(cfg: RunConfig) -> Iterator[Problem]:
    """Refuse secrets: settings are recorded."""
    named = {
        "dataset.storage_options": cfg.dataset.storage_options,
        "training.env": cfg.training.env,
        "training.launcher.labels": cfg.training.launcher.labels,
        "training.launcher.annotations": cfg.training.launcher.annotations,
        "eval.model_args": cfg.eval.model_args,
        "eval.gen_kwargs": cfg.eval.gen_kwargs,
        "eval.judge": {"address": cfg.eval.judge.address, "parameters": cfg.eval.judge.parameters},
    }
    for where, options in named.items():
        for key, value in _leaves(options, where):
            how = "is named like" if is_secret_name(key.rpartition(".")[2]) else "holds"
            if how == "is named like" or redact(str(value)) != str(value):
                rule = f"{how} a secret, and settings are recorded"
                yield Problem(key=key, rule=rule, suggestion="put it into the environment")
    if redact(cfg.name) != cfg.name:
        yield Problem(key="name", rule="holds a secret, and it names the run's folder")


def _leaves(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value
