"""Which place a pipeline's last task gives the registry: KFP's copy, or where the recipe uploads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sft import runner
from sft.config.compose import compose, find_recipe
from sft.config.schema import RegistryKind, RunConfig
from sft.errors import GateError
from sft.kfp import NAMESPACE, tasks
from sft.runner import run_folder


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
    configs: list[RunConfig] = []

    def begin(cfg: RunConfig, **_: object) -> NoReturn:
        configs.append(cfg)
        raise GateError(["no further"])

    monkeypatch.setattr(runner, "run", begin)
    with pytest.raises(SystemExit, match=str(GateError.exit_code)):
        tasks.registry("quickstart", overrides, str(tmp_path), "4f1c", "ours", Copy())
    assert (configs[0].registry.uri == "s3://kfp/artifact") is told
    assert (configs[0].registry.source_id == "4f1c") is (configs[0].registry.kind is RegistryKind.kubeflow)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], ("kfp", "pipelinerun", "team-a", "4f1c", "it's ours")),
        (["registry.source_group=mine"], ("sft", "run", "mine", None, None)),
    ],
)
def test_the_run_in_pipelines_is_what_made_the_model_unless_the_recipe_says_who(
    said: list[str], expected: tuple[str | None, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.setenv(NAMESPACE, "team-a")
    configs: list[RunConfig] = []

    def begin(cfg: RunConfig, **_: object) -> NoReturn:
        configs.append(cfg)
        raise GateError(["no further"])

    monkeypatch.setattr(runner, "run", begin)
    with pytest.raises(SystemExit):
        tasks.registry("quickstart", ["registry=kubeflow", *said], str(tmp_path), "4f1c", "it's ours", Copy())
    found = configs[0].registry
    assert run_folder(configs[0]) == run_folder(compose(find_recipe("quickstart"), ["registry=kubeflow", *said]))
    names = ("kind", "class", "group", "id", "name")
    assert tuple(getattr(found, f"source_{name}") for name in names) == expected
