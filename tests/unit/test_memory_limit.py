"""Memory beyond a limit is refused within the block, and given again after it."""

from __future__ import annotations

import sys

import pytest

from sft.memory_limit import memory_limit


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_block_takes_no_more_than_its_limit() -> None:
    with memory_limit(64 << 20):
        assert len(bytearray(16 << 20)) == 16 << 20
        with pytest.raises(MemoryError):
            bytearray(1 << 30)
        with memory_limit(1 << 40), pytest.raises(MemoryError):  # an outer limit holds
            bytearray(1 << 30)
    assert len(bytearray(1 << 30)) == 1 << 30
