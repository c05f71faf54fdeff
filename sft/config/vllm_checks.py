"""Rules of `eval.vllm` and of `eval.backend=vllm`. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from sft.config.schema import EvalBackend, EvalConfig, VllmConfig
from sft.errors import Problem

_TO_LM_EVAL = {"add_bos_token", "custom_prefix_token_id", "max_gen_toks", "max_length", "num_concurrent", "timeout"}
"""Arguments of lm-eval's model of a server (api_models.py:TemplateAPI@0.4.13) that are not ours to say."""


def check_vllm(cfg: EvalConfig) -> Iterator[Problem]:
    """Yield every problem of vLLM's settings."""
    if cfg.backend is not EvalBackend.vllm:
        for field in dataclasses.fields(VllmConfig):
            if getattr(cfg.vllm, field.name) != field.default:
                rule = "is read only with eval.backend=vllm"
                yield Problem(key=f"eval.vllm.{field.name}", rule=rule, suggestion="try eval.backend=vllm")
        return
    key, value = "eval.backend", cfg.backend.name
    if cfg.vllm.python is None:
        suggestion = "make an environment with vLLM and name its interpreter: eval.vllm.python=PATH/bin/python"
        yield Problem(key=key, value=value, rule="needs eval.vllm.python", suggestion=suggestion)
    if cfg.enabled and not cfg.tasks:
        rule = "answers eval.tasks, and there are none: held-out samples are scored by transformers"
        yield Problem(key=key, value=value, rule=rule, suggestion="try eval.backend=hf")
    for name in sorted(cfg.model_args.keys() - _TO_LM_EVAL):
        rule = f"does not reach vLLM; with it there are {', '.join(sorted(_TO_LM_EVAL))}, and eval.vllm"
        yield Problem(key=f"eval.model_args.{name}", rule=rule)
