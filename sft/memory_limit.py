"""A limit on what this process may take of memory, for as long as it reads what somebody else made."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """Let the block take at most `num_bytes` more than the process has; beyond that allocations fail.

    All threads share the limit. Without Linux there is none.

    Args:
        num_bytes: Of private writable memory (setrlimit(2), RLIMIT_DATA).

    Raises:
        MemoryError: The block needs more. Libraries may have subclasses of it.
    """
    if sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _taken() + num_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _taken() -> int:
    """Return the bytes of data and stack (proc_pid_statm(5)). Called for each rendering of a conversation."""
    handle = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(handle, 256).split()[5]) * resource.getpagesize()
    finally:
        os.close(handle)
