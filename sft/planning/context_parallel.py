"""Decide whether ranks can share the tokens of a row (`training.context_parallel`), and say why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sft.config.schema import Attention
from sft.errors import ConfigError, Problem
from sft.planning.row_packing import why_padded

KEY = "training.context_parallel"
_OF_LENGTH = {"dynamic", "longrope", "su"}
"""Kinds of RoPE whose frequencies follow the largest position of what a rank computes (transformers,
modeling_rope_utils.py:dynamic_rope_update): ranks that share a row would turn its tokens differently."""


def check_model(config: Mapping[str, Any], size: int) -> None:
    """Refuse a model whose rows `size` ranks can't share.

    Args:
        config: The model's ``config.json``.
        size: `training.context_parallel`.

    Raises:
        ConfigError: They can't.
    """
    if size > 1 and (problem := why_not_shared(config, size)):
        raise ConfigError([problem])


def why_not_shared(config: Mapping[str, Any], size: int) -> Problem | None:
    """Return why `size` ranks can't share the rows of a model; None if they can. Arguments as of `check_model`."""
    heads = config.get("num_attention_heads")
    if why := why_padded(config, Attention.varlen):
        rule = f"a row that ranks share has to be packed, and this model's samples are padded: {why}"
    elif kinds := sorted({*_rope_kinds(config)} & _OF_LENGTH):
        rule = f"its RoPE ({kinds[0]}) depends on how long a row is, of which a rank sees its own part"
    elif not isinstance(heads, int) or heads < 1:
        rule = "the model's config.json doesn't say num_attention_heads, which ranks divide"
    elif heads % size:
        fitting = [str(each) for each in range(2, heads + 1) if heads % each == 0]
        return Problem(
            key=KEY,
            value=str(size),
            rule=f"must divide the model's {heads} attention heads",
            suggestion=f"try one of {', '.join(fitting)}" if fitting else None,
        )
    else:
        return None
    return Problem(key=KEY, value=str(size), rule=rule, suggestion="leave it out, or take another model")


def _rope_kinds(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kinds of RoPE of a model, whose layers may differ in it."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        for each in (rope, *(rope.values() if isinstance(rope, Mapping) else ())):
            if isinstance(each, Mapping):
                yield str(each.get("rope_type") or each.get("type"))
