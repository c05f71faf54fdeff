"""Links in a run's folder to what lies in the store under a key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sft.artifacts import Artifact, CheckpointArtifact, ModelPackage
from sft.config.schema import ModelConfig
from sft.errors import StageError
from sft.runner.result_links import link_results
from sft.stages.model import source_version


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "my-1a2b3c4d"
    folder.mkdir(parents=True)
    return folder


def trained(root: Path) -> CheckpointArtifact:
    """A checkpoint of a LoRA run."""
    (root / "model").mkdir(parents=True)
    (root / "adapter").mkdir()
    (root / "logs" / "tensorboard").mkdir(parents=True)
    (root / "logs" / "metrics.jsonl").write_text("{}\n")
    return CheckpointArtifact(root=root, num_steps=1, num_epochs=1, final_loss=1.0, world_size=1)


def packaged(root: Path) -> ModelPackage:
    (root / "model" / "adapter").mkdir(parents=True)
    return ModelPackage(root=root, record_digest="0")


def made(folder: Path) -> dict[str, Artifact]:
    store = folder.parent / "store"
    return {"train": trained(store / "train" / "k1"), "package": packaged(store / "package" / "k2")}


def links(folder: Path) -> dict[str, str]:
    return {path.name: path.readlink().as_posix() for path in folder.iterdir() if path.is_symlink()}


def test_model_adapter_metrics_and_curves_have_a_name(folder: Path) -> None:
    assert link_results(folder, made(folder)) == []
    assert links(folder) == {
        "model": "../store/package/k2/model",
        "adapter": "../store/package/k2/model/adapter",
        "metrics.jsonl": "../store/train/k1/logs/metrics.jsonl",
        "tensorboard": "../store/train/k1/logs/tensorboard",
    }
    shutil.move(folder.parent, folder.parents[1] / "elsewhere")
    assert (folder.parents[1] / "elsewhere" / folder.name / "metrics.jsonl").read_text() == "{}\n"


def test_a_model_that_missed_its_gates_has_a_name_too(folder: Path) -> None:
    link_results(folder, {"train": made(folder)["train"]})
    assert links(folder)["model"] == "../store/train/k1/model"


def test_a_run_that_made_no_model_has_no_link(folder: Path) -> None:
    assert link_results(folder, {}) == []
    assert links(folder) == {}


def test_a_link_follows_a_later_result_and_what_somebody_put_there_stays(folder: Path) -> None:
    artifacts = made(folder)
    (folder / "tensorboard").mkdir()
    [said] = link_results(folder, artifacts)
    assert said.startswith(f"{folder / 'tensorboard'}: is no link and stays as it is; what this run has made is ")
    assert said.endswith("store/train/k1/logs/tensorboard")
    link_results(folder, {**artifacts, "package": packaged(folder.parent / "store" / "package" / "k3")})
    assert links(folder)["model"] == "../store/package/k3/model"
    assert "tensorboard" not in links(folder)


def test_a_run_is_no_base_model_but_says_which_folder_is(folder: Path) -> None:
    link_results(folder, made(folder))
    (folder / "run.json").write_text("{}")
    with pytest.raises(StageError, match="is a run's folder, not a model's") as refused:
        source_version(ModelConfig(name_or_path=str(folder)))
    assert refused.value.fix is not None
    assert f"model.name_or_path={folder}/model" in refused.value.fix
