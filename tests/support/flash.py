"""Flash attention as transformers calls it, computed on a CPU: one call of torch's attention for each sequence.

transformers' own code decides what a kernel is given: `on_a_cpu` replaces the kernels alone, which are a GPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from sft.adapters.patched import patched


@contextmanager
def on_a_cpu() -> Iterator[list[str]]:
    """Compute flash attention's kernels on the CPU; yield the names of those that were called."""
    from transformers import modeling_flash_attention_utils as flash

    called: list[str] = []

    def dense(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        called.append("dense")
        return _attend(query, key, value, **settings)

    def varlen(query: Any, key: Any, value: Any, *, cu_seqlens_q: Any, cu_seqlens_k: Any, **settings: Any) -> Any:
        import torch

        called.append("varlen")
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
        assert cu_seqlens_q.dtype == torch.int32
        bounds = cu_seqlens_q.tolist()
        assert settings.pop("max_seqlen_q") == max(b - a for a, b in pairwise(bounds))
        settings.pop("max_seqlen_k")
        parts = [
            _attend(query[None, a:b], key[None, a:b], value[None, a:b], **settings)[0] for a, b in pairwise(bounds)
        ]
        return torch.cat(parts)

    def settings(**asked: Any) -> dict[str, Any]:
        names = {"causal": "is_causal", "softmax_scale": "softmax_scale", "softcap": "softcap", "sinks": "s_aux"}
        kept = {name: asked.get(own) for name, own in names.items()}
        window = asked.get("sliding_window")
        kept["window"] = window if window is not None and asked["key_length"] > window else None
        lengths = {name: asked[name] for name in ("max_seqlen_q", "max_seqlen_k") if name in asked}
        return {**kept, **lengths}

    kernels = ((dense, varlen, None, None, None), (settings, None))
    with patched((flash, "lazy_import_flash_attention", lambda *_: kernels)):
        yield called


@contextmanager
def varlen_on_a_cpu() -> Iterator[list[tuple[Any, ...]]]:
    """Compute `torch.nn.attention.varlen.varlen_attn` on the CPU, as its documentation says; yield its windows."""
    import inspect

    import torch
    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)
    called: list[tuple[Any, ...]] = []

    def varlen_attn(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        known = {
            *("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"),
            "scale",
            "window_size",
            "enable_gqa",
        }
        assert all(value is None for name, value in given.arguments.items() if name not in known)
        query, key, value, bounds, ends, longest, longest_k, scale, (left, right), gqa = (
            given.arguments[name] for name in signature.parameters if name in known
        )
        rows = (query, key, value)
        assert all(row.ndim == 3 and row.stride(-1) == 1 and row.shape[-1] % 8 == 0 for row in rows)
        assert len({row.shape[-1] for row in rows}) == len({row.dtype for row in rows}) == 1
        assert bounds.dtype == torch.int32
        assert bounds.tolist() == ends.tolist()
        spans = list(pairwise(bounds.tolist()))
        assert bounds[0] == 0
        assert bounds[-1] == len(query)  # what is in no sample stays unwritten
        assert longest == longest_k == max(end - begin for begin, end in spans)
        assert right == 0
        assert gqa or query.shape[1] == key.shape[1]
        called.append((left, right))
        settings = {"causal": True, "softmax_scale": scale, "softcap": None, "sinks": None}
        window = None if left == -1 else left + 1
        parts = [_attend(*(row[None, begin:end] for row in rows), **settings, window=window)[0] for begin, end in spans]
        return torch.cat(parts)

    with patched((varlen, "varlen_attn", varlen_attn)):
        yield called


def _attend(
    query: Any, key: Any, value: Any, *, causal: bool, softmax_scale: Any, softcap: Any, sinks: Any, window: Any
) -> Any:
    """Attention of shapes (rows, tokens, heads, width), as flash-attn's documentation says."""
    import torch

    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    tokens = torch.arange(query.shape[2])
    distance = tokens[:, None] - tokens[None, :]
    hidden = (distance < 0) if causal else torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (distance >= window)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        extra = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        return (torch.cat([scores, extra], -1).softmax(-1)[..., :-1] @ value).transpose(1, 2)
    return (scores.softmax(-1) @ value).transpose(1, 2)
