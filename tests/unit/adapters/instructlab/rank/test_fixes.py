"""Each mended trap, against what it mends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import fixes

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


def test_trackers_are_not_imported_with_the_library_and_can_be_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for tracker in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, tracker, SimpleNamespace())  # puts back what was there, at the end
    with fixes.trackers_not_importable(), pytest.raises(ImportError):
        __import__("mlflow")
    assert "mlflow" not in sys.modules
