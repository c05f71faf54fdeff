"""Decide whether flash attention gets many samples in one row: where no layer of the model would mix them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sft.config.schema import Attention

PACKED = {
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2"),
    *("gemma3_text", "gemma4_text", "phi3", "granite", "granitemoe", "smollm3", "cohere", "cohere2", "olmo2", "olmo3"),
    *("glm4", "glm4_moe", "deepseek_v3", "gpt_neox"),
}
"""Architectures whose layers keep samples of one row apart with flash attention: proved for each by
tests/contract/test_packing.py. Layers with a state or a convolution (Mamba, linear attention, LFM2) mix them, and so
does gpt-oss where the library replaces flash attention by another one."""


def why_padded(config: Mapping[str, Any]) -> str | None:
    """Return why a model's samples are not packed into one row for flash attention; None if they are.

    Args:
        config: The model's ``config.json``.
    """
    kind = config.get("model_type")
    if config.get("auto_map"):
        return "its code is its own, and may let samples in one row see each other"
    if kind not in PACKED:
        return f"{kind} is not among the architectures that are known to keep samples in one row apart"
    return None


def packing_notes(config: Mapping[str, Any] | None, attention: Attention) -> Iterator[str]:
    """Yield a line if flash attention is used and samples are padded all the same, as far as `config` is known."""
    if config and attention is Attention.flash_attention and (why := why_padded(config)):
        yield f"samples are padded to the longest of their minibatch, not packed: {why}"
