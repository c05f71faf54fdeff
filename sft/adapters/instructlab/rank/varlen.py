"""Owns attention over packed rows: each sample of a row attends to itself alone, and nothing is padded for it.

transformers calls `attend` as any of its attention functions (`AttentionInterface`). A GPU's kernel takes the whole row
and the bounds of its samples (`torch.nn.attention.varlen`: bf16, compute capability 8.0 and later, heads of up to 256
features). Elsewhere torch's scaled dot product attention takes the samples of one length at a time. What an
architecture asks of attention and neither does (a soft cap, sinks, a bias, dropout) is refused, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from sft.adapters.instructlab.packing import LENGTHS
from sft.adapters.instructlab.rank import context_parallel
from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.settings import VARLEN_CAPABILITY, WorkerOptions
from sft.adapters.patched import patched
from sft.errors import StageError

NAME = "varlen"
"""What transformers knows `attend` by."""
_WIDEST_HEAD, _WIDTHS = 256, 8
"""What torch's kernel takes: heads up to, and widths that are a multiple of."""
_SAID_OTHERWISE = {"position_ids", "cu_seq_lens_k", "max_length_k", "use_cache", "output_router_logits"}
"""Arguments of attention that say what others say, too, or that are for other parts of a model."""


class State:
    """What this rank attends with, and over which row next.

    Attributes:
        lengths: Tokens of each sample of the row in order, padding at its end as one of them. On the host, so that no
            layer waits for the device to tell them.
        has_kernel: Whether the device has torch's kernel for packed rows, and the rank computes in bf16.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.has_kernel = False


STATE = State()


def in_use(options: WorkerOptions) -> str:
    """Return what this rank attends with, for its notes: what a pod's GPU has is known here alone."""
    if not options.packs_rows:
        return f"{options.attention}, over padded samples"
    if options.attention != NAME:
        return f"{options.attention}, over packed rows"
    rows = f"packed rows of {SHARE.size} ranks each" if SHARE.size > 1 else "packed rows"
    if STATE.has_kernel:
        return f"torch.nn.attention.varlen.varlen_attn, over {rows}"
    return f"torch.nn.functional.scaled_dot_product_attention, over {rows} sample by sample"


def slower(options: WorkerOptions) -> list[str]:
    """Return a line if a GPU lacks the kernel that a plan may count on."""
    if not options.on_gpu or not options.packs_rows or options.attention != NAME or STATE.has_kernel:
        return []
    needs = f"bf16 and compute capability {'.'.join(map(str, VARLEN_CAPABILITY))}"
    return [f"attention takes packed rows sample by sample, which is slower: torch's kernel for them needs {needs}"]


@contextmanager
def patched_attention(*, precision: str) -> Iterator[None]:
    """Let the library's model attend over packed rows, until the block ends.

    Args:
        precision: ``bf16`` or ``fp32``.
    """
    from instructlab.training import model

    finish_model = model.Model._post_model_init

    def with_varlen(self: Any) -> None:  # model.py:635, before adapters are added
        STATE.has_kernel = has_kernel(precision)
        select(self.model)
        finish_model(self)

    with patched((model.Model, "_post_model_init", with_varlen)):
        yield


def has_kernel(precision: str) -> bool:
    """Return whether torch has its kernel for packed rows on this rank's device in ``bf16`` or ``fp32``."""
    import torch

    if precision != "bf16" or not torch.cuda.is_available() or torch.version.hip is not None:
        return False
    return bool(torch.cuda.get_device_capability() >= VARLEN_CAPABILITY)


def select(model: Any) -> None:
    """Let a model of transformers attend by `attend`.

    Raises:
        StageError: A layer keeps its own attention.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    kept = {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} - {NAME}
    if kept:
        rule = f"{type(model).__name__}: its layers keep their own attention ({', '.join(sorted(kept))})"
        raise StageError(rule, fix="set training.attention=sdpa")


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    cu_seq_lens_q: Any,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Return causal attention of each sample of a packed row to itself, as transformers' attention functions do.

    Of a row that ranks share, each has a stretch of the tokens; bounds and lengths are those of the whole row.

    Args:
        module: The layer's attention.
        query: Of shape (1, heads, tokens, features).
        key: Of shape (1, heads of keys, tokens, features).
        value: As `key`; its features may be another number.
        attention_mask: None.
        cu_seq_lens_q: Where samples begin and the last one ends: int32, of shape (samples + 1,), on the device.
        max_length_q: Tokens of the longest sample.
        scaling: Of the scores; None = one by the root of the features.
        dropout: 0.
        sliding_window: A token sees so many, itself included; None = all before it.
        others: Those that say nothing else; anything else must be None or False.

    Returns:
        Of shape (1, tokens, heads, features), and None.

    Raises:
        StageError: The architecture asks for what this can't do.
    """
    causal = others.pop("is_causal", None)
    wanted = {
        **{name: each is not None and each is not False for name, each in others.items()},
        **dict.fromkeys(_SAID_OTHERWISE, False),
        "dropout": dropout > 0,
        "attention_mask": attention_mask is not None,
        "is_causal=False": not (getattr(module, "is_causal", True) if causal is None else causal),
    }
    if unknown := sorted(name for name in wanted if wanted[name]):
        rule = f"{type(module).__name__}: attention over packed rows has no {', '.join(unknown)}"
        raise StageError(rule, fix="set training.attention=sdpa")
    shares_row = SHARE.size > 1
    if shares_row:
        query, key, value, module = context_parallel.of_some_heads(query, key, value, _precision(value))
    if STATE.has_kernel and query.shape[-1] <= _WIDEST_HEAD:
        attended = on_kernel(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        attended = sample_by_sample(module, query, key, value, STATE.lengths, scaling, sliding_window)
    return context_parallel.of_all_heads(attended) if shares_row else attended, None


def on_kernel(
    query: Any, key: Any, value: Any, bounds: Any, longest: int, scaling: float | None, window: int | None
) -> Any:
    """Return attention by torch's kernel for packed rows. Arguments and result as of `attend`."""
    import torch
    from torch.nn.attention.varlen import varlen_attn

    width, value_width = query.shape[-1], value.shape[-1]
    query, key, value = (each.to(_precision(value)) for each in (query, key, value))
    padded = -(-max(width, value_width) // _WIDTHS) * _WIDTHS
    rows = [
        torch.nn.functional.pad(each[0].transpose(0, 1), (0, padded - each.shape[-1])) for each in (query, key, value)
    ]
    attended = varlen_attn(
        *rows,
        bounds,
        bounds,
        longest,
        longest,
        scale=width**-0.5 if scaling is None else scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[None, ..., :value_width]


def sample_by_sample(
    module: Any, query: Any, key: Any, value: Any, lengths: list[int], scaling: float | None, window: int | None
) -> Any:
    """Return attention by torch's scaled dot product attention, as transformers calls it.

    Neighbours of one length are computed at once. In bf16 on a CPU, which compiles it anew for each length, a sample is
    filled up to a multiple of `LENGTHS` here alone; no token sees what comes after it. Arguments and result as of
    `attend`.

    Raises:
        StageError: `lengths` are not those of this row.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sum(lengths) != query.shape[2]:
        raise StageError(f"a row of {query.shape[2]} tokens came to attention, whose samples have {sum(lengths)}")
    rows = [each[0].transpose(0, 1) for each in (query, key, value)]
    computed = lengths
    if query.device.type == "cpu" and _precision(value) is torch.bfloat16:
        computed = [-(-length // LENGTHS) * LENGTHS for length in lengths]
        rows = [_filled(row, lengths, computed) for row in rows]
    runs = [(length, len(list(run))) for length, run in groupby(computed)]
    parts = [row.split([length * num for length, num in runs]) for row in rows]
    attended = []
    for (length, num), *part in zip(runs, *parts, strict=True):
        own = [each.unflatten(0, (num, length)).transpose(1, 2) for each in part]
        mask = None
        if window is not None and length > window:
            mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)[None, None]
        attended.append(sdpa_attention_forward(module, *own, mask, scaling=scaling)[0].flatten(0, 1))
    row = torch.cat(attended)
    return (row if computed is lengths else _without_filling(row, lengths, computed))[None]


def _precision(value: Any) -> Any:
    """Return what attention computes in: autocast's choice, or the type of values, which no position turns."""
    import torch

    device = value.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype


def _filled(row: Any, lengths: list[int], computed: list[int]) -> Any:
    """Return a row, of shape (tokens, heads, features), with zeros after each sample."""
    import torch

    zeros = row.new_zeros(max(computed), *row.shape[1:])
    pieces = zip(row.split(lengths), lengths, computed, strict=True)
    return torch.cat([part for piece, length, whole in pieces for part in (piece, zeros[: whole - length])])


def _without_filling(row: Any, lengths: list[int], computed: list[int]) -> Any:
    """Return what `_filled` has filled without it."""
    import torch

    sizes = [size for length, whole in zip(lengths, computed, strict=True) for size in (length, whole - length)]
    return torch.cat(row.split(sizes)[::2])
