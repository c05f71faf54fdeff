"""Rules across fields. Pure: no file, no network, no library. Every problem is returned, none is raised."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sft.config import upload_uri
from sft.config.launcher_checks import check_launcher
from sft.config.schema import (
    EvalBackend,
    EvalConfig,
    ModelSource,
    RegistryKind,
    RunConfig,
    ScratchConfig,
    TrainingConfig,
)
from sft.errors import Problem
from sft.logs import is_secret_name, redact
from sft.scores import parse_gate

_MIN_SCRATCH_VOCAB = 300
_PVC = re.compile(r"[a-z0-9][-.a-z0-9]*:/.+")


def check(cfg: RunConfig) -> list[Problem]:
    """All problems of a composed configuration; an empty list when it can run."""
    return [
        *_ranges(cfg),
        *_training(cfg.training),
        *(_scratch(cfg.model.scratch) if cfg.model.source is ModelSource.scratch else ()),
        *_add_tokens(cfg),
        *_eval(cfg.eval),
        *_registry(cfg),
        *_secrets(cfg),
    ]


def _ranges(cfg: RunConfig) -> Iterator[Problem]:
    t, d, e = cfg.training, cfg.dataset, cfg.eval
    if "/" in cfg.name:
        yield Problem(key="name", value=cfg.name, rule="must be without /: it names the run's folder")
    if not 0.0 < d.train_split <= 1.0:
        yield Problem(key="dataset.train_split", value=str(d.train_split), rule="must be above 0 and at most 1")
    if not d.split_by:
        rule = "must be prompt, row, or the name of a column"
        yield Problem(key="dataset.split_by", value="''", rule=rule, suggestion="try dataset.split_by=prompt")
    at_least_one = {
        "dataset.max_samples": d.max_samples,
        "training.num_epochs": t.num_epochs,
        "training.effective_batch_size": t.effective_batch_size,
        "training.max_tokens_per_gpu": t.max_tokens_per_gpu,
        "training.max_seq_len": t.max_seq_len,
        "training.validation_frequency": t.validation_frequency,
        "training.checkpoint_every_steps": t.checkpoint_every_steps,
        "training.keep_full_states": t.keep_full_states,
        "training.stall_timeout_seconds": t.stall_timeout_seconds,
        "training.launcher.num_workers": t.launcher.num_workers,
        "training.launcher.procs_per_worker": t.launcher.procs_per_worker,
        "training.lora.alpha": t.lora.alpha,
        "eval.limit": e.limit,
        "eval.holdout.limit": e.holdout.limit,
        "eval.holdout.max_new_tokens": e.holdout.max_new_tokens,
    }
    for key, value in at_least_one.items():
        if value is not None and value < 1:
            yield Problem(key=key, value=str(value), rule="must be at least 1")
    not_negative = {
        "training.learning_rate": t.learning_rate,
        "training.warmup_steps": t.warmup_steps,
        "training.weight_decay": t.weight_decay,
        "training.neftune_alpha": t.neftune_alpha,
        "training.save_samples": t.save_samples,
        "training.max_restarts": t.max_restarts,
        "training.num_loader_workers": t.num_loader_workers,
        "training.launcher.gpus_per_worker": t.launcher.gpus_per_worker,
        "training.lora.rank": t.lora.rank,
        "eval.num_fewshot": e.num_fewshot,
    }
    below_one = {
        "training.validation_split": t.validation_split,
        "training.beta1": t.beta1,
        "training.beta2": t.beta2,
        "training.lora.dropout": t.lora.dropout,
    }
    for key, part in below_one.items():
        if not 0.0 <= part < 1.0:
            yield Problem(key=key, value=str(part), rule="must be at least 0 and below 1")
    above_zero = {"training.max_grad_norm": t.max_grad_norm, "training.adam_epsilon": t.adam_epsilon}
    for key, amount in above_zero.items():
        if amount <= 0:
            yield Problem(key=key, value=str(amount), rule="must be above 0")
    for key, number in not_negative.items():
        if number is not None and number < 0:
            yield Problem(key=key, value=str(number), rule="must not be negative")


def _training(cfg: TrainingConfig) -> Iterator[Problem]:
    if cfg.max_tokens_per_gpu is not None and cfg.max_seq_len > cfg.max_tokens_per_gpu:
        yield Problem(
            key="training.max_seq_len",
            value=str(cfg.max_seq_len),
            rule=f"a sample must fit into training.max_tokens_per_gpu={cfg.max_tokens_per_gpu}",
            suggestion=f"try training.max_seq_len={cfg.max_tokens_per_gpu}",
        )
    if cfg.validation_frequency and not cfg.validation_split:
        yield Problem(
            key="training.validation_frequency",
            value=str(cfg.validation_frequency),
            rule="needs samples to validate on",
            suggestion="try training.validation_split=0.05",
        )
    if cfg.lora.target_modules is not None and not cfg.lora.target_modules:
        yield Problem(
            key="training.lora.target_modules",
            value="[]",
            rule="must name a layer; null takes every projection",
            suggestion="try null",
        )
    yield from check_launcher(cfg)


def _scratch(cfg: ScratchConfig) -> Iterator[Problem]:
    key = "model.scratch"
    if cfg.hidden_size % (2 * cfg.num_attention_heads):
        rule = f"must be a multiple of twice num_attention_heads={cfg.num_attention_heads} (rotary embedding)"
        yield Problem(key=f"{key}.hidden_size", value=str(cfg.hidden_size), rule=rule)
    if cfg.num_attention_heads % cfg.num_key_value_heads:
        rule = f"must divide num_attention_heads={cfg.num_attention_heads}"
        yield Problem(key=f"{key}.num_key_value_heads", value=str(cfg.num_key_value_heads), rule=rule)
    if cfg.vocab_size < _MIN_SCRATCH_VOCAB:
        rule = f"must be at least {_MIN_SCRATCH_VOCAB}: all bytes and the special tokens"
        yield Problem(key=f"{key}.vocab_size", value=str(cfg.vocab_size), rule=rule)


def _add_tokens(cfg: RunConfig) -> Iterator[Problem]:
    key, added = "model.add_tokens", cfg.model.add_tokens
    tokens = [*added.special, *added.plain]
    for token in sorted({token for token in tokens if tokens.count(token) > 1 or not token.strip()}):
        yield Problem(key=key, value=repr(token), rule="must be a text, and named once")
    if tokens and cfg.model.source is ModelSource.scratch:
        rule = "is for a pretrained model; one from scratch gets a tokenizer of its own"
        yield Problem(key=key, rule=rule, suggestion="leave it out, or set model.scratch.vocab_size")
    if tokens and cfg.training.lora.rank:
        rule = "needs the embedding to be trained, which adapters leave as it is"
        yield Problem(key=key, rule=rule, suggestion="try training.lora.rank=0")


def _eval(cfg: EvalConfig) -> Iterator[Problem]:
    if cfg.batch_size != "auto" and not (cfg.batch_size.isdigit() and int(cfg.batch_size)):
        yield Problem(key="eval.batch_size", value=cfg.batch_size, rule="must be a number above 0, or auto")
    for name in cfg.model_args.keys() & {"pretrained", "trust_remote_code"}:
        own = "which model is scored" if name == "pretrained" else "model.trust_remote_code"
        yield Problem(key=f"eval.model_args.{name}", rule=f"is not for an evaluation to say: see {own}")
    if cfg.system_instruction is not None and not cfg.apply_chat_template:
        rule = "needs a chat template to stand in"
        yield Problem(key="eval.system_instruction", rule=rule, suggestion="try eval.apply_chat_template=true")
    if cfg.backend is EvalBackend.local_chat_completions:
        yield from _served(cfg)
    for name, rule in cfg.gates.items():
        yield from _gate(cfg, name, rule)


def _served(cfg: EvalConfig) -> Iterator[Problem]:
    key, value = "eval.backend", cfg.backend.name
    if "base_url" not in cfg.model_args:
        suggestion = "try eval.model_args.base_url=http://localhost:8000/v1/chat/completions"
        yield Problem(key=key, value=value, rule="needs the server's address", suggestion=suggestion)
    if not cfg.apply_chat_template:
        suggestion = "try eval.apply_chat_template=true"
        yield Problem(key=key, value=value, rule="takes chats, no texts", suggestion=suggestion)


def _gate(cfg: EvalConfig, name: str, rule: str) -> Iterator[Problem]:
    key = f"eval.gates.{name}"
    try:
        gate = parse_gate(rule)
    except ValueError as error:
        yield Problem(key=key, value=rule, rule=str(error))
        return
    task, dot, metric = name.partition(".")
    if not cfg.enabled:
        yield Problem(key=key, value=rule, rule="nothing is scored: eval.enabled=false")
    elif gate.from_baseline and not cfg.baseline:
        yield Problem(key=key, value=rule, rule="needs the base model's score", suggestion="try eval.baseline=true")
    elif not dot:
        yield Problem(key=key, value=rule, rule="must name a score: task.metric", suggestion=f"try {name}.acc")
    elif task == "holdout":
        known = holdout_metrics(cfg)
        if metric not in known:
            scores = f"it is scored for {', '.join(known) or 'nothing'}"
            yield Problem(key=key, value=rule, rule=f"the held-out split has no such score; {scores}")
    elif not cfg.tasks:
        yield Problem(key=key, value=rule, rule="eval.tasks is empty", suggestion=f"try eval.tasks=[{task}]")


def holdout_metrics(cfg: EvalConfig) -> tuple[str, ...]:
    """What the held-out split is scored for."""
    written = ("exact_match", "rouge_l", "chrf") if cfg.holdout.generate else ()
    return ("loss", "perplexity", "token_accuracy", *written) if cfg.holdout.enabled else ()


def _registry(cfg: RunConfig) -> Iterator[Problem]:
    address, uri, upload = cfg.registry.address, cfg.registry.uri, cfg.registry.upload
    if upload is not None:
        try:
            upload_uri.parse(upload)
        except ValueError as error:
            yield Problem(key="registry.upload", value=redact(upload), rule=str(error))
        if uri:
            rule = "is where registry.upload has brought the model, or where something else does: not both"
            yield Problem(key="registry.uri", value=uri, rule=rule, suggestion="try registry.uri=null")
    if uri and cfg.registry.kind is RegistryKind.mlflow:
        yield Problem(
            key="registry.uri", value=uri, rule="is for a Kubeflow registry; MLflow is told where the model is"
        )
    if (pvc := cfg.registry.pvc) is not None and not _PVC.fullmatch(pvc):
        suggestion = "try sft-workspace:/workspace"
        yield Problem(key="registry.pvc", value=pvc, rule="must be claim:/mount/path", suggestion=suggestion)
    if cfg.registry.pvc and uri:
        rule = "says where the model is, and so does registry.pvc; one of them"
        yield Problem(key="registry.uri", value=uri, rule=rule)
    if cfg.registry.kind is RegistryKind.kubeflow and address and not address.startswith(("http://", "https://")):
        rule = "must start with http:// or https://"
        yield Problem(key="registry.address", value=address, rule=rule, suggestion=f"try https://{address}")


def _secrets(cfg: RunConfig) -> Iterator[Problem]:
    """Settings are recorded, so a secret must not be one."""
    named = {
        "dataset.storage_options": cfg.dataset.storage_options,
        "training.env": cfg.training.env,
        "training.launcher.labels": cfg.training.launcher.labels,
        "training.launcher.annotations": cfg.training.launcher.annotations,
        "eval.model_args": cfg.eval.model_args,
        "eval.gen_kwargs": cfg.eval.gen_kwargs,
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
