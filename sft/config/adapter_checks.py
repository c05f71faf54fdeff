"""Rules between the settings of adapters, as far as no model has to be known. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from sft.adapter_choice import matches
from sft.config.schema import (
    AdapterUse,
    BaseQuantization,
    Compile,
    LoraConfig,
    LoraInit,
    ModelConfig,
    ModelSource,
    TrainingConfig,
)
from sft.errors import Problem


def check_adapters(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield what is wrong between the settings of `training.lora`, and between them and others."""
    lora = cfg.lora
    if lora.target_modules is not None and not lora.target_modules:
        rule = "must name a layer; null takes every linear layer but the head"
        yield _problem("target_modules", "[]", rule, "null")
    if lora.layers is not None and not lora.layers:
        yield _problem("layers", "[]", "must name a layer; null takes all of them", "null")
    if not lora.rank:
        return
    for setting, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        for shorter, longer in permutations(patterns, 2):
            if matches(longer, shorter):
                rule = f"{longer} is named by {shorter} too, so that one layer would have two values"
                yield _problem(f"{setting}.{shorter}", patterns[shorter], rule, "names of which none ends with another")
    if lora.init is LoraInit.orthogonal and lora.rank % 2:
        yield _problem("init", "orthogonal", f"needs an even rank, not {lora.rank}", "training.lora.rank=16")
    if lora.use_dora and cfg.compile is Compile.regional:
        rule = "is not compiled: peft computes its weights anew in each layer's pass"
        yield _problem("use_dora", "true", rule, "training.compile=none")
    if lora.quantize is not BaseQuantization.none:
        yield from _quantization_problems(cfg)


def _quantization_problems(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield what a base in 4 bits does not go with."""
    value = cfg.lora.quantize.value
    if cfg.fsdp.version == 1:
        rule = "needs FSDP2: FSDP1 computes under autocast, which is not tried with it"
        yield _problem("quantize", value, rule, "training.fsdp.version=2")
    if cfg.compile is Compile.regional:
        yield _problem("quantize", value, "is not compiled: not tried", "training.compile=none")


def check_model_adapter(model: ModelConfig, training: TrainingConfig) -> Iterator[Problem]:
    """Yield why `model.adapter` can't be, where it is set."""
    is_continued = model.adapter_use is AdapterUse.continued
    if model.adapter is None:
        if is_continued:
            key, value = "model.adapter_use", model.adapter_use.name
            rule, fix = "needs the adapter: model.adapter", "try model.adapter=FOLDER"
            yield Problem(key=key, value=value, rule=rule, suggestion=fix)
        return
    key = "model.adapter"
    if model.source is ModelSource.scratch:
        rule = "is for a pretrained model; one from scratch has no adapter yet"
        yield Problem(key=key, value=model.adapter, rule=rule, suggestion="try null")
    if training.lora.rank and not is_continued:
        rule = "is merged into the weights, which is not for a training of adapters (training.lora.rank)"
        fix = "model.adapter_use=continued trains it on; sft merge MODEL ADAPTER --output FOLDER is for a new one"
        yield Problem(key=key, value=model.adapter, rule=rule, suggestion=fix)


def trains_embeddings(cfg: LoraConfig) -> bool:
    """Return whether embeddings and head are trained beside adapters."""
    ends = {name.rpartition(".")[2] for name in cfg.modules_to_save}
    return {"embed_tokens", "lm_head"} <= ends or {"embed_in", "lm_head"} <= ends


def _problem(key: str, value: object, rule: str, suggestion: str) -> Problem:
    return Problem(key=f"training.lora.{key}", value=str(value), rule=rule, suggestion=f"try {suggestion}")
