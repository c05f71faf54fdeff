"""Which place a pipeline's last task gives the registry: KFP's copy, or where the recipe uploads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sft.cli import task


@dataclass
class Copy:
    """KFP's artifact."""

    path: str = ""
    uri: str = "s3://kfp/artifact"
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["registry=kubeflow"], True),
        (["registry=kubeflow", "registry.upload=s3://bucket/x"], False),
        (["registry=mlflow"], False),
    ],
)
def test_kfps_copy_is_registered_unless_the_model_is_uploaded(
    overrides: list[str], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "")  # the task sets it for its process
    given: list[str] = []

    def begin(arguments: Sequence[str]) -> int:
        given.extend(arguments)
        return 7

    monkeypatch.setattr(task, "main", begin)
    with pytest.raises(SystemExit, match="7"):
        task.registry("quickstart", overrides, str(tmp_path), Copy())
    assert any("registry.uri=" in text and "s3://kfp/artifact" in text for text in given) is told
