"""Owns what goes on in a rank beside the training: a full state's copy in host memory, and the thread that writes it.

The ranks' threads agree among themselves over a gloo group of their own: two threads that use one group would meet in
each other's collectives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Does one thing at a time; what goes wrong with it is raised in the thread that trains.

    Attributes:
        seconds: What the last thing that is done took, until it is asked for.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "full state")
        self._pending: Future[None] | None = None
        self._group: Any = None
        self._copies: dict[str, Any] = {}
        self.seconds: float | None = None

    def copy(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return this rank's part of each tensor in host memory, which stays taken and is written over the next time.

        Nothing may be under way: it would write what is copied now.
        """
        import torch
        from torch.distributed.tensor import DTensor

        assert self._pending is None
        copies: dict[str, Any] = {}
        same: dict[Any, Any] = {}
        for name, tensor in tensors.items():
            own = tensor.detach()
            own = own.to_local() if isinstance(own, DTensor) else own
            place = (own.data_ptr(), own.dtype, own.shape, own.stride())  # a tied weight has two names and one copy
            if place not in same:
                before = self._copies.get(name)
                is_fit = before is not None and (before.shape, before.dtype) == (own.shape, own.dtype)
                target: Any = before if is_fit else torch.empty_like(own, device="cpu")
                same[place] = target.copy_(own)
            copies[name] = same[place]
        self._copies = copies
        return copies

    def start(self, work: Callable[[Any], None]) -> None:
        """Begin `work` with the group in which the threads of all ranks agree. Called by all ranks together."""
        import torch.distributed as dist

        self.finish()
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        began = time.perf_counter()

        def timed() -> None:
            work(self._group)
            self.seconds = time.perf_counter() - began

        self._pending = self._executor.submit(timed)

    def check(self) -> None:
        """Raise what has gone wrong with what was under way; don't wait for it."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Wait until nothing is under way, and raise what has gone wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
