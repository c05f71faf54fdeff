"""A run that has ended is registered, where nothing was registered or somewhere else; what is registered is listed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.model_registry import ModelRegistryServer
from tests.support.command import Answer, sft, sft_in_process, steps

pytestmark = [pytest.mark.slow, pytest.mark.long]
TOKEN = "canary-token-77e1c2"


@pytest.fixture(scope="module")
def root(done: tuple[Path, Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished quickstart's run root, without its registry; this module may change it."""
    folder = tmp_path_factory.mktemp("registered")
    subprocess.run(["cp", "-a", done[0] / "runs", folder], check=True)
    (folder / "runs" / "mlflow.db").unlink()
    shutil.rmtree(folder / "runs" / "mlflow-artifacts")
    return folder


@pytest.fixture(scope="module")
def unregistered(root: Path) -> Path:
    """The run's folder of the same settings without a registry: only the package is made anew."""
    before = set(root.glob("runs/quickstart-*"))
    answer = sft("run", "quickstart", "registry=none", cwd=root)
    assert answer.status == 0, answer.err
    [folder] = set(root.glob("runs/quickstart-*")) - before
    return folder


@pytest.fixture
def kubeflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRegistryServer]:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set: no contract to hold the registry to")
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    contract = Path(os.environ["SFT_TEST_DATA"], "contracts", "model-registry.openapi.yaml")
    with ModelRegistryServer(contract, token=TOKEN) as server:
        yield server
    assert server.violations == []


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


@pytest.mark.exhaustive
def test_an_earlier_run_is_registered_here_and_elsewhere_and_its_record_tells_of_both(
    root: Path, unregistered: Path, kubeflow: ModelRegistryServer
) -> None:
    run = str(unregistered.relative_to(root))
    first = sft("register", run, "registry=mlflow", "registry.model_name=speller", cwd=root)
    assert first.status == 0, first.err
    assert "registered  speller version 1 in sqlite:///" in first.out
    again = sft("register", run, "registry=mlflow", "registry.model_name=speller", cwd=root)
    assert "= register: done before" in again.out
    second = sft("register", run, "registry=kubeflow", f"registry.address={kubeflow.url}", cwd=root)
    assert second.status == 0, second.err
    record = record_of(unregistered)
    assert record["status"] == "done"
    assert [step["name"] for step in record["steps"]][-3:] == ["package", "register", "register:2"]
    assert steps(record)["register"]["facts"]["name"] == "speller"
    verified = sft("verify", run, cwd=root)
    assert verified.status == 0, verified.err

    listed = sft("models", cwd=root)
    assert listed.out.startswith("speller 1 @candidate  2")
    assert f"run {unregistered.name}" in listed.out
    assert "  holdout.exact_match            0.0000 → " in listed.out
    there = sft("models", "--json", "registry=kubeflow", f"registry.address={kubeflow.url}", cwd=root)
    [model] = json.loads(there.out)
    assert (model["name"], model["version"], model["facts"]["run_id"]) == ("quickstart", "1.0.0", unregistered.name)
    assert model["facts"]["tuned.holdout.loss"] == steps(record)["evaluate:tuned"]["facts"]["scores"][1]["value"]
    nothing = sft("models", "--name", "writer", "registry=kubeflow", f"registry.address={kubeflow.url}", cwd=root)
    assert nothing.out == "no model writer is registered there\n"
    assert TOKEN not in "".join(part for answer in (second, there) for part in (answer.out, answer.err))

    address = f"registry.address={kubeflow.url}"
    kept = sft("register", run, "registry=kubeflow", address, cwd=root)
    assert "= register: done before" in kept.out
    for rows in kubeflow.rows.values():
        rows.clear()
    lost = sft("register", run, "registry=kubeflow", address, cwd=root)
    assert f"quickstart version 1.0.0 is no longer in {kubeflow.url}: it is registered again" in lost.out
    assert [row["name"] for row in kubeflow.rows["model_artifacts"].values()] == ["quickstart"]


def test_a_registry_is_asked_before_the_training(root: Path, kubeflow: ModelRegistryServer) -> None:
    run = ("run", "quickstart", "training.seed=12", "registry=kubeflow")
    away = sft(*run, "registry.address=http://127.0.0.1:9", cwd=root)
    assert away.status == 1
    assert "asked before the training: asking the model registry failed: the model registry at http://127" in away.err
    assert "registry=none: `sft register`" in away.err
    kubeflow._create("registered_models", {"name": "quickstart", "state": "ARCHIVED"})
    archived = sft(*run, f"registry.address={kubeflow.url}", cwd=root)
    assert "quickstart is archived in the model registry" in archived.err
    assert not list(root.glob("runs/store/.staging/train-*"))


def test_a_registry_that_is_away_leaves_the_run_as_it_was(root: Path, unregistered: Path) -> None:
    before = record_of(unregistered)["status"]
    address = "registry.address=http://127.0.0.1:9"
    answer = sft("register", str(unregistered), "registry=kubeflow", address, cwd=root, MODEL_REGISTRY_TOKEN=TOKEN)
    assert answer.status == 1
    assert "can't be reached" in answer.err
    assert "Traceback" not in answer.err
    record = record_of(unregistered)
    assert record["status"] == before == "done"
    assert {step["status"] for step in record["steps"]} == {"done", "failed"}


def test_a_model_that_was_changed_since_it_was_made_is_not_registered(
    root: Path, unregistered: Path, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-a", root / "runs", tmp_path], check=True)
    run = tmp_path / "runs" / unregistered.name
    before = (run / "run.json").read_bytes()
    weights = (
        tmp_path
        / "runs"
        / "store"
        / "package"
        / steps(record_of(run))["package"]["key"]
        / "model"
        / "model.safetensors"
    )
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    answer = sft("register", str(run), "registry=mlflow", "registry.model_name=tampered", cwd=tmp_path)
    assert answer.status == 1
    assert "model.safetensors: differs: its sha256 is" in answer.err
    assert (run / "run.json").read_bytes() == before
    assert "tampered" not in sft("models", cwd=tmp_path).out


def test_what_can_not_be_registered_is_said(root: Path, unregistered: Path, tmp_path: Path) -> None:
    run = str(unregistered)
    for arguments, said in (
        ((run, "training.seed=1"), "training.seed=1: is not for `sft register`: the model is made already"),
        (
            (run,),
            "registry: names no registry, and registry.upload no place; registry=mlflow, or registry=kubeflow registry.address=https://…",
        ),
        ((str(tmp_path),), "no run.json and no sft.json there"),
        (
            (run, "registry=mlflow", "registry.sbom=true", "registry.sign=true"),
            "  - registry.sign: is for a model that is being packaged, and this one was packaged without it; repeat "
            "the run's own command with it: of what is done only the package is made anew\n  - registry.sbom: is for",
        ),
    ):
        answer = sft_in_process("register", *arguments, cwd=root)
        assert said in answer.err


def test_a_run_without_a_model_is_not_registered(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "runs" / "store" / "dataset", tmp_path / "runs" / "store" / "dataset")
    started = sft_in_process("run", "quickstart", "--until", "dataset", cwd=tmp_path)
    assert started.status == 0, started.err
    [run] = tmp_path.glob("runs/quickstart-*")
    answer = sft_in_process("register", str(run), cwd=tmp_path)
    assert answer.status == 1
    assert "are not there" in answer.err
    assert "finish the run first" in answer.err
    assert len(record_of(run)["steps"]) == 1


def test_an_empty_run_root_has_no_models_and_none_is_made(tmp_path: Path) -> None:
    assert sft("models", cwd=tmp_path).out == "no model is registered there\n"
    assert list(tmp_path.iterdir()) == []
