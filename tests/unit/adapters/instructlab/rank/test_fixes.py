"""Each mended trap, against what it mends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import copies, fixes

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.mark.parametrize(
    ("sharded", "device", "offloaded"), [(True, "cuda", True), (False, "cuda", False), (True, "cpu", False)]
)
def test_a_state_is_offloaded_only_where_torch_can(sharded: bool, device: str, offloaded: bool) -> None:
    seen: list[bool] = []

    def unshard(_module: Any, _state: Any, *, offload_to_cpu: bool, rank0_only: bool) -> None:
        seen.append(offload_to_cpu)

    handle = SimpleNamespace(uses_sharded_strategy=sharded, device=SimpleNamespace(type=device))
    fixes.unshard_without_offload(unshard)(None, SimpleNamespace(_handle=handle), offload_to_cpu=True, rank0_only=True)
    assert seen == [offloaded]


def test_a_training_never_empties_the_devices_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream does so at each step's end, and waits for the device (`tests/contract` says whether it still does)."""
    import torch

    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("now"))
    with fixes.patched_library():
        torch.cuda.empty_cache()
    assert emptied == []
    torch.cuda.empty_cache()
    assert emptied == ["now"]


def test_a_copy_to_a_gpu_is_of_pinned_memory_and_is_not_waited_for() -> None:
    calls: list[Any] = []
    pinned = SimpleNamespace(to=lambda device, **how: calls.append((device, how)))
    of_host = SimpleNamespace(pin_memory=lambda: pinned, to=lambda *_, **how: calls.append(("pageable", how)))
    copies.to_device(of_host, "cuda:1")
    assert calls == [("cuda:1", {"non_blocking": True})]


def test_trackers_are_not_imported_with_the_library_and_can_be_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for tracker in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, tracker, SimpleNamespace())  # puts back what was there, at the end
    with fixes.trackers_not_importable(), pytest.raises(ImportError):
        __import__("mlflow")
    assert "mlflow" not in sys.modules
