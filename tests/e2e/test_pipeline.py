"""The compiled pipeline with kfp's own local runner: four tasks, each a process, one workspace, everything real."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp")
from kfp import components, local

from sft.config.compose import find_recipe
from sft.kfp.cluster import Cluster
from sft.kfp.pipeline import text_of
from tests.servers.model_registry import ModelRegistryServer
from tests.support.cluster import site

pytestmark = pytest.mark.filterwarnings(  # resources are the cluster's to give
    "ignore:Task .* settings .* have no effect in the current local runner:UserWarning"
)

OWN = """
# A recipe that no image has.
defaults:
  - config
  - override /dataset: synthetic
  - override /model: scratch
  - override /eval: none
  - override /registry: kubeflow
  - _self_
dataset: {max_samples: 200}
training: {effective_batch_size: 50, max_seq_len: 256}
registry:
  description: it's "ours", all of it
"""
TOKEN = "canary-registry-token"
IN_PODS = """
# Trains in a TrainJob.
defaults:
  - config
  - override /dataset: synthetic
  - override /model: scratch
  - override /training/launcher: kubeflow
  - override /eval: none
  - _self_
dataset: {{max_samples: 200}}
training:
  effective_batch_size: 50
  max_seq_len: 256
  launcher: {{num_workers: 2, gpus_per_worker: 0, cpu: "1", memory: 2Gi, namespace: sft, mount_path: {volume}}}
"""


def run(recipe: str, folder: Path, **parameters: Any) -> Path:
    """Compiles a recipe's pipeline and runs it; what it left, a folder for each task."""
    workspace = folder / "workspace"
    workspace.mkdir()
    text = text_of(find_recipe(recipe), Cluster(image="python", gpus=0))
    (folder / "pipeline.yaml").write_text(text, encoding="utf-8")
    pipeline: Any = components.load_component_from_file(str(folder / "pipeline.yaml"))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "outputs"),
        workspace_root=str(workspace),  # the runner deletes it at the end
    )
    pipeline(**parameters)
    [left] = (folder / "outputs").iterdir()
    return left


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the quickstart's pipeline left."""
    return run(
        "quickstart",
        tmp_path_factory.mktemp("pipeline"),
        phase_01_dataset_opt_subset=1000,
        phase_02_train_man_train_batch=32,
        phase_03_eval_opt_limit=40,
    )


def metadata(outputs: Path, task: str, name: str) -> dict[str, Any]:
    told = json.loads((outputs / task / "executor_output.json").read_text())
    [artifact] = told["artifacts"][name]["artifacts"]
    found: dict[str, Any] = artifact["metadata"]
    return found


@pytest.mark.exhaustive
def test_every_task_leaves_what_kfp_shows(outputs: Path) -> None:
    assert len((outputs / "dataset" / "data" / "train.jsonl").read_text().splitlines()) == 900
    assert metadata(outputs, "dataset", "data")["num_eval"] == 100
    assert "<table>" in (outputs / "dataset" / "page").read_text()
    assert (outputs / "training" / "model" / "model.safetensors").is_file()
    assert metadata(outputs, "training", "metrics")["num_epochs"] == 4
    assert "<polyline" in (outputs / "training" / "page").read_text()
    scores = metadata(outputs, "evaluation", "metrics")
    assert scores["tuned.holdout.loss"] < scores["base.holdout.loss"]
    assert "spell_numbers.acc" in (outputs / "evaluation" / "page").read_text()
    assert (outputs / "registry" / "model" / "README.md").is_file()
    assert metadata(outputs, "registry", "model")["registry"] == "mlflow"


@pytest.mark.exhaustive
def test_later_tasks_take_what_earlier_ones_made(outputs: Path) -> None:
    facts = json.loads((outputs / "registry" / "model" / "sft.json").read_text())
    recorded = {step["name"]: step["output"] for step in facts["record"]["steps"]}
    assert recorded["dataset"] == metadata(outputs, "dataset", "data")["digest"]
    assert recorded["train"] == metadata(outputs, "training", "model")["digest"]
    assert facts["record"]["config"]["training"]["effective_batch_size"] == 32


@pytest.mark.exhaustive
def test_a_recipe_that_trains_in_a_trainjob_does_so_from_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kubernetes")
    volume, recipe = tmp_path / "volume", tmp_path / "pods.yaml"
    volume.mkdir()
    recipe.write_text(IN_PODS.format(volume=volume), encoding="utf-8")
    with site("stand-in", volume) as there:
        for name, value in there.environment.items():
            monkeypatch.setenv(name, value)
        left = run(str(recipe), tmp_path, phase_02_train_man_workers=2, phase_02_train_opt_memory="3Gi")
        [job] = there.jobs().values()
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["memory"] == "3Gi"
    assert metadata(left, "training", "metrics")["num_epochs"] == 1
    assert (left / "registry" / "model" / "model.safetensors").is_file()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_recipe_of_ones_own_ends_in_the_registry_as_the_model_that_kfp_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set: no contract to hold the registry to")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    contract = Path(os.environ["SFT_TEST_DATA"], "contracts", "model-registry.openapi.yaml")
    with ModelRegistryServer(contract, token=TOKEN) as server:
        left = run(str(recipe), tmp_path, phase_04_registry_man_address=server.url, phase_04_registry_man_name="ours")
    assert server.violations == []
    assert [row["name"] for row in server.rows["registered_models"].values()] == ["ours"]
    [artifact] = server.rows["model_artifacts"].values()
    assert (artifact["modelSourceKind"], artifact["modelSourceClass"]) == ("kfp", "pipelinerun")
    assert artifact["modelSourceId"]
    assert artifact["uri"] == str(left / "registry" / "model") == metadata(left, "registry", "model")["uri"]
    facts = json.loads((left / "registry" / "model" / "sft.json").read_text())
    assert facts["record"]["config"]["registry"]["description"] == 'it\'s "ours", all of it'
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in left.rglob("*.json"))
