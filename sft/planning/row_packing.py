"""Decide whether samples are packed into rows: where no layer of the model would mix the samples of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sft.config.schema import Attention

PACKED = {
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3_text", "gemma4_text", "phi3", "granite", "granitemoe", "smollm3", "cohere", "cohere2", "olmo2", "olmo3"),
    *("glm4", "glm4_moe", "deepseek_v3", "gpt_neox"),
}
"""Architectures whose layers keep the samples of a row apart: proved for each, by each attention, in
tests/contract/test_packing.py. Layers with a state or a convolution (Mamba, linear attention, LFM2) mix them, and so
does gpt-oss where the library replaces flash attention by another one."""
CAPPED = {"gemma2"}
"""Those of them whose scores go through a tanh, which flash-attn has and torch's varlen attention has not."""


def why_padded(config: Mapping[str, Any], attention: Attention) -> str | None:
    """Return why samples are not packed into rows; None if they are.

    Args:
        config: The model's ``config.json``.
        attention: What the training attends with, never auto.
    """
    kind = config.get("model_type")
    if attention is Attention.sdpa:
        return "attention=sdpa takes one sample a row"
    if config.get("auto_map"):
        return "its code is its own, and may let samples in one row see each other"
    if kind not in PACKED:
        return f"{kind} is not among the architectures that are known to keep samples in one row apart"
    if attention is Attention.varlen and kind in CAPPED:
        return f"{kind} caps its scores, and varlen attention has no such cap"
    if attention is Attention.varlen and config.get("attention_dropout"):
        return f"its attention_dropout is {config['attention_dropout']}, and varlen attention has no dropout"
    return None


def packing_notes(config: Mapping[str, Any] | None, attention: Attention) -> Iterator[str]:
    """Yield a line if rows could be packed and samples are padded all the same, as far as `config` is known."""
    if config and attention is not Attention.sdpa and (why := why_padded(config, attention)):
        yield f"samples are padded to the longest of their minibatch, not packed: {why}"
