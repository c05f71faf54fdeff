"""Owns context parallelism: ranks that share the tokens of a row, each attending to all of it with some of the heads.

As DeepSpeed-Ulysses does it (Jacobs et al., arXiv:2309.14509): each rank has a stretch of the row and computes all of
the model on it. Around attention, and nowhere else, tokens meet: an exchange gives every rank the whole row of some of
the heads, and another one brings back its stretch of all heads. So attention over packed rows, windows included, stays
as it is. torch's own (torch.distributed.tensor.experimental@2.13) passes keys round a ring for attention without a
mask, so for one sample a row, or gathers all keys on every rank for flex attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from sft.adapters.instructlab.packed_rows import head_repeats
from sft.adapters.patched import patched


class Share:
    """What this rank computes of each row.

    Attributes:
        size: Ranks that share a row: neighbours, and so mostly on one node.
        index: Which of its stretches is this rank's, and which of the heads.
        group: Those ranks, as torch knows them.
    """

    def __init__(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Have each row alone."""
        self.size, self.index = 1, 0
        self.group: Any = None

    @property
    def counts(self) -> bool:
        """Whether this rank is the one of those that share a row which counts its samples and tokens."""
        return self.index == 0

    def join(self, size: int) -> None:
        """Form the groups; each rank calls it, once torch's process group is there."""
        import torch
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        device = "cuda" if torch.cuda.is_available() else "cpu"
        ranks = init_device_mesh(device, (dist.get_world_size() // size, size), mesh_dim_names=("rows", "stretches"))
        self.size, self.index, self.group = size, dist.get_rank() % size, ranks.get_group("stretches")

    def stretch(self, row: Any) -> Any:
        """Return this rank's part of what is known of each token of a row, of shape (…, tokens)."""
        return row if self.size == 1 else row.unflatten(-1, (self.size, -1))[..., self.index, :]


SHARE = Share()
"""This rank's: attention is far from where the ranks are known."""


@contextmanager
def patched_rows(size: int) -> Iterator[None]:
    """Give `size` ranks the same rows, and each of them a stretch of it, until the block ends."""
    from instructlab.training import main_ds

    make_loader = main_ds.get_data_loader

    def of_rows(*args: Any, rank: int, world_size: int, **kwargs: Any) -> Any:  # main_ds.py:636@0.16.2
        SHARE.join(size)
        return make_loader(*args, rank=rank // size, world_size=world_size // size, **kwargs)

    try:
        with patched((main_ds, "get_data_loader", of_rows)):
            yield
    finally:
        SHARE.leave()


def of_some_heads(query: Any, key: Any, value: Any, precision: Any) -> tuple[Any, Any, Any, Any]:
    """Return the whole row of this rank's heads, and what stands for the layer's attention, which has all of them.

    Args:
        query: Of shape (1, heads, tokens of this rank, features), with heads that `Share.size` divides.
        key: As `query`, of its own number of heads.
        value: As `key`; its features may be another number.
        precision: What attention computes in, and so what is sent.

    Returns:
        The three of shape (1, share of the heads, tokens, features), and an object with ``num_key_value_groups``.
    """
    times = head_repeats(key.shape[1], SHARE.size)
    if times > 1:
        key, value = (each.repeat_interleave(times, dim=1) for each in (key, value))
    query, key, value = (_whole_row(each.to(precision)) for each in (query, key, value))
    return query, key, value, SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1], is_causal=True)


def of_all_heads(attended: Any) -> Any:
    """Return this rank's stretch of all heads: of shape (1, tokens of this rank, heads, features).

    Args:
        attended: Of shape (1, tokens, share of the heads, features).
    """
    return _exchange()(attended[0].unflatten(0, (SHARE.size, -1)).contiguous()).transpose(0, 1).flatten(1, 2)[None]


def _whole_row(stretch: Any) -> Any:
    by_rank = stretch[0].transpose(0, 1).unflatten(1, (SHARE.size, -1)).transpose(0, 1)
    return _exchange()(by_rank.contiguous()).flatten(0, 1).transpose(0, 1)[None]


@cache
def _exchange() -> Callable[[Any], Any]:
    """Return a function that sends each rank a part of a tensor, by its first dimension, and returns what came.

    What the gradient of what came is to this rank, the gradient of what was sent is to the others: the same exchange.
    """
    import torch
    import torch.distributed as dist

    class Exchange(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(_ctx: Any, parts: Any) -> Any:
            received = torch.empty_like(parts)
            dist.all_to_all_single(received, parts, group=SHARE.group)
            return received

        @staticmethod
        def backward(_ctx: Any, gradient: Any) -> Any:
            return Exchange.apply(gradient.contiguous())

    return Exchange.apply  # type: ignore[no-any-return]
