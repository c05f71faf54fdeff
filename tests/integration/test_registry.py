"""The registry stage against real MLflow, and against a model registry server.

The Kubeflow half runs against a stand-in that checks every message, or, where MODEL_REGISTRY_URL (and
MODEL_REGISTRY_TOKEN) say so, against a real server; tests that need faults are then left out.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from sft.artifacts import RegisteredModel
from sft.config.schema import RegistryConfig, RegistryKind
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.register import RegisterInputs, register
from tests.register_inputs import register_inputs, report, sha
from tests.servers.mlflow import tracking_server
from tests.servers.model_registry import DROP, ModelRegistryServer

# MLflow 3.17.2 asks SQLAlchemy 2.1 for something it deprecates; only seen where a test reads the store itself.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TOKEN = "canary-token-5d41402a"


class Told(Progress):
    """Progress that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_stage(cfg: RegistryConfig, inputs: RegisterInputs, out: Path) -> tuple[RegisteredModel, str]:
    out.mkdir(parents=True)
    told = Told()
    model = register(cfg, inputs, out, told)
    return model, "\n".join(told.lines)


def written(folder: Path) -> str:
    """Everything that a stage left in its files."""
    return "\n".join(p.read_text() for p in folder.rglob("*") if p.is_file())


# --- Kubeflow -------------------------------------------------------------------------------------------------


@pytest.fixture
def contract_file() -> Path:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set: no contract to hold the registry to")
    return Path(os.environ["SFT_TEST_DATA"], "contracts", "model-registry.openapi.yaml")


@pytest.fixture
def stand_in(contract_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRegistryServer]:
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    with ModelRegistryServer(contract_file, token=TOKEN) as server:
        yield server
    assert server.violations == []


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """A real server where there is one, else the stand-in."""
    return os.environ.get("MODEL_REGISTRY_URL") or request.getfixturevalue("stand_in").url


def kubeflow(address: str, **changes: Any) -> RegistryConfig:
    settings = {"author": "ada", "description": "spells numbers", "model_name": f"sft-{uuid.uuid4().hex[:8]}"}
    return RegistryConfig(kind=RegistryKind.kubeflow, address=address, **(settings | changes))


def get(address: str, path: str, **query: str) -> dict[str, Any]:
    url = f"{address}/api/model_registry/v1/{path}?{urlencode(query)}"
    headers = {"authorization": f"Bearer {os.environ.get('MODEL_REGISTRY_TOKEN', TOKEN)}"}
    with urlopen(Request(url, headers=headers), timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def held(address: str, cfg: RegistryConfig) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The registered model, its versions and the artifacts of the first, as the server tells them."""
    model = get(address, "registered_model", name=cfg.model_name)
    versions = get(address, f"registered_models/{model['id']}/versions")["items"]
    return model, versions, get(address, f"model_versions/{versions[0]['id']}/artifacts")["items"]


def test_the_stand_in_notices_what_breaks_the_contract(contract_file: Path) -> None:
    with ModelRegistryServer(contract_file, token=TOKEN) as server:
        url = f"{server.url}/api/model_registry/v1/registered_models"
        body = {"name": "speller", "customProperties": {"rows": {"metadataType": "MetadataIntValue", "int_value": 80}}}
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        urlopen(Request(url, json.dumps(body).encode(), headers), timeout=30).close()
    assert [violation.split()[:2] for violation in server.violations] == [["request", "POST"], ["answer", "POST"]]


def test_a_version_carries_where_it_came_from_with_types_kept(address: str, tmp_path: Path) -> None:
    cfg = kubeflow(address)
    inputs = register_inputs(tmp_path)
    registered, note = run_stage(cfg, inputs, tmp_path / "out")

    model, [version], [artifact] = held(address, cfg)
    assert model["owner"] == "ada"
    assert (version["name"], version["author"], version["description"]) == ("1.0.0", "ada", "spells numbers")
    facts = version["customProperties"]
    assert facts["checkpoint.digest"]["string_value"] == inputs.checkpoint.digest
    assert facts["dataset.num_train"] == {"int_value": "80", "metadataType": "MetadataIntValue"}
    assert facts["training.learning_rate"] == {"double_value": 5e-6, "metadataType": "MetadataDoubleValue"}
    assert facts["model.trust_remote_code"] == {"bool_value": False, "metadataType": "MetadataBoolValue"}
    assert facts["base_model.num_parameters"]["double_value"] == 1_543_714_304  # past the contract's nine digits
    assert (facts["base.holdout.acc"]["double_value"], facts["tuned.holdout.acc"]["double_value"]) == (0.0, 0.9375)
    assert artifact["uri"] == inputs.checkpoint.model_dir.as_uri()
    assert (artifact["modelFormatName"], artifact["modelFormatVersion"]) == ("pytorch", "1.0")
    assert (artifact["modelSourceKind"], artifact["modelSourceId"]) == ("sft", "run-1")

    record = json.loads((tmp_path / "out" / "registration.json").read_text())
    assert record["metadata"] == registered.metadata
    assert (record["registry"], record["name"], record["version"]) == ("kubeflow", cfg.model_name, "1.0.0")
    assert f"registered {cfg.model_name} version 1.0.0" in note


def test_registering_the_same_checkpoint_again_writes_nothing(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    first, _ = run_stage(cfg, inputs, tmp_path / "first")
    stand_in.requests.clear()
    second, note = run_stage(cfg, inputs, tmp_path / "second")
    assert {method for method, _, _ in stand_in.requests} == {"GET"}
    assert "already" in note
    assert second.metadata == first.metadata


def test_new_scores_of_a_registered_checkpoint_are_brought_up_to_date(address: str, tmp_path: Path) -> None:
    cfg = kubeflow(address)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    rescored = register_inputs(tmp_path, report=report(tmp_path / "again", 0.5, 1.0), run_id="run-2")
    registered, note = run_stage(cfg, rescored, tmp_path / "second")
    _, [version], [_] = held(address, cfg)
    assert version["customProperties"]["tuned.holdout.acc"]["double_value"] == 1.0
    assert version["customProperties"]["run_id"]["string_value"] == "run-1"
    assert registered.metadata["tuned.holdout.acc"] == 1.0
    assert "1 score" in note


def test_another_checkpoint_under_the_same_version_is_refused(address: str, tmp_path: Path) -> None:
    cfg = kubeflow(address)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    with pytest.raises(StageError, match=r"registry\.model_version=1\.0\.0") as refused:
        run_stage(cfg, register_inputs(tmp_path, weights="other"), tmp_path / "second")
    assert sha("other") in str(refused.value)
    assert "choose a new registry.model_version" in str(refused.value)


def test_a_half_registered_model_is_completed_by_the_same_command(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    stand_in.fail("POST", "artifacts", 500)
    with pytest.raises(StageError, match="HTTP 500") as failed:
        run_stage(cfg, inputs, tmp_path / "first")
    assert stand_in.url in str(failed.value)
    assert "the same command registers later" in str(failed.value)
    assert len(stand_in.rows["model_versions"]) == 1
    assert not stand_in.rows["model_artifacts"]

    _, note = run_stage(cfg, inputs, tmp_path / "second")
    assert "half registered" in note
    _, [_], [artifact] = held(stand_in.url, cfg)
    assert artifact["uri"] == inputs.checkpoint.model_dir.as_uri()
    assert artifact["modelSourceId"] == "run-1"


def test_a_connection_that_breaks_between_the_calls_is_survived_by_the_same_command(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    stand_in.fail("POST", "model_versions", DROP)
    with pytest.raises(StageError, match="can't be reached") as failed:
        run_stage(cfg, inputs, tmp_path / "first")
    assert stand_in.url in str(failed.value)
    run_stage(cfg, inputs, tmp_path / "second")
    _, [_], [_] = held(stand_in.url, cfg)


def test_a_conflict_with_another_registration_is_looked_at_again(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    cfg = kubeflow(stand_in.url)
    stand_in.fail("POST", "model_versions", 409)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    _, [_], [_] = held(stand_in.url, cfg)


def test_a_wrong_token_is_said_without_the_token(
    stand_in: ModelRegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", "canary-wrong-7d793037")
    with pytest.raises(StageError, match="refused the token") as refused:
        run_stage(kubeflow(stand_in.url), register_inputs(tmp_path), tmp_path / "out")
    assert "set MODEL_REGISTRY_TOKEN" in str(refused.value)
    assert "canary" not in str(refused.value) + written(tmp_path / "out")


def test_a_token_file_may_end_in_a_newline(
    stand_in: ModelRegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("MODEL_REGISTRY_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    run_stage(kubeflow(stand_in.url), register_inputs(tmp_path), tmp_path / "out")
    assert len(stand_in.rows["model_artifacts"]) == 1
    assert TOKEN not in written(tmp_path / "out")


def test_https_without_a_token_is_refused_with_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_REGISTRY_TOKEN", raising=False)
    with pytest.raises(StageError, match="needs a token") as refused:
        run_stage(kubeflow("https://127.0.0.1:9"), register_inputs(tmp_path), tmp_path / "out")
    assert "set MODEL_REGISTRY_TOKEN" in str(refused.value)


def test_a_server_of_the_other_api_version_is_told_which_client_fits(
    contract_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    with (
        ModelRegistryServer(contract_file, token=TOKEN, api="v1alpha3") as server,
        pytest.raises(StageError, match=r"install model-registry==0\.3\.14") as refused,
    ):
        run_stage(kubeflow(server.url), register_inputs(tmp_path), tmp_path / "out")
    assert server.url in str(refused.value)


def test_a_server_that_is_away_fails_this_stage_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"http://127\.0\.0\.1:9 can't be reached") as failed:
        run_stage(kubeflow("http://127.0.0.1:9"), register_inputs(tmp_path), tmp_path / "out")
    assert "the same command registers later" in str(failed.value)


# --- MLflow ---------------------------------------------------------------------------------------------------


def mlflow(**changes: Any) -> RegistryConfig:
    settings = {"author": "ada", "description": "spells numbers", "model_name": "speller", "model_version": "2.1"}
    return RegistryConfig(kind=RegistryKind.mlflow, **(settings | changes))


def client(inputs: RegisterInputs) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(inputs.mlflow_uri, inputs.mlflow_uri)


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RegisterInputs, RegisteredModel, Path]]:
    """One model registered in a fresh SQLite store, called from an empty folder."""
    root = tmp_path_factory.mktemp("mlflow")
    (root / "cwd").mkdir()
    inputs = register_inputs(root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "cwd")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield inputs, run_stage(mlflow(), inputs, root / "out")[0], root


Speller = tuple[RegisterInputs, RegisteredModel, Path]


def test_mlflow_version_has_source_tags_and_alias(speller: Speller) -> None:
    inputs, registered, _ = speller
    version = client(inputs).get_model_version_by_alias("speller", "candidate")
    assert str(version.version) == registered.version == "1"
    assert version.source == inputs.checkpoint.model_dir.as_uri() == registered.uri
    assert version.description == "spells numbers"
    expected = {
        "base_model.source": "Qwen/Qwen2.5-1.5B-Instruct",
        "base_model.revision": "989aa79",
        "dataset.source": "s3://bucket/chat.jsonl",
        "dataset.digest": sha("dataset"),
        "dataset.num_train": "80",
        "training.learning_rate": "5e-06",
        "base.arc.acc": "0.25",
        "tuned.arc.acc": "0.5",
        "tuned.arc.acc_stderr": "0.125",
        "checkpoint.digest": sha("weights"),
        "version": "2.1",
        "author": "ada",
        "git_commit": "0123abc",
        "run_id": "run-1",
        "versions.torch": "2.13.0",
    }
    assert expected.items() <= version.tags.items()
    assert registered.metadata["dataset.num_train"] == 80


def test_mlflow_run_has_parameters_the_curve_and_the_scores(speller: Speller) -> None:
    inputs, _, _ = speller
    store = client(inputs)
    run = store.get_run(store.get_model_version("speller", "1").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.learning_rate"] == "5e-06"
    assert [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 4.0),
        (2, 2.0),
        (4, 1.0),
    ]
    assert "train/device" not in run.data.metrics
    assert (run.data.metrics["base.holdout.acc"], run.data.metrics["tuned.holdout.acc"]) == (0.0, 0.9375)


def test_mlflow_keeps_the_record_and_the_reports_but_no_weights(speller: Speller) -> None:
    inputs, _, root = speller
    kept = {p.name: p.read_bytes() for p in inputs.mlflow_artifacts.rglob("*") if p.is_file()}
    assert kept["run.json"] == inputs.run_record.read_bytes()
    assert sorted(kept) == ["report.json", "run.json"]
    assert list((root / "cwd").iterdir()) == []
    assert (root / "out" / "logs" / "mlflow" / "log.txt").read_text() == ""


def test_mlflow_finds_a_registered_checkpoint_again_and_updates_its_scores(speller: Speller) -> None:
    inputs, _, root = speller
    rescored = register_inputs(root / "runs", report=report(root / "rescored", 0.5, 1.0), run_id="run-2")
    again, note = run_stage(mlflow(), rescored, root / "again")
    assert again.version == "1"
    assert "version 1 already; 1 score" in note
    [version] = client(inputs).search_model_versions("name = 'speller'")
    assert (version.tags["tuned.holdout.acc"], version.tags["run_id"]) == ("1.0", "run-1")


@pytest.mark.slow
def test_mlflow_registrations_at_once_make_one_store_and_a_version_per_checkpoint(tmp_path: Path) -> None:
    runs = {name: register_inputs(tmp_path, weights=name[0]) for name in ("a1", "a2", "b")}
    start = threading.Barrier(len(runs))

    def one(name: str) -> str:
        start.wait()
        return run_stage(mlflow(), runs[name], tmp_path / name)[0].version

    with ThreadPoolExecutor(len(runs)) as pool:
        versions = dict(zip(runs, pool.map(one, runs), strict=True))
    assert versions["a1"] == versions["a2"] != versions["b"]
    assert sorted({versions["a1"], versions["b"]}) == ["1", "2"]


def test_mlflow_refuses_a_bad_model_name_in_its_own_words(speller: Speller) -> None:
    inputs, _, root = speller
    other = register_inputs(root / "runs", weights="other")
    with pytest.raises(StageError, match="Names cannot contain") as refused:
        run_stage(mlflow(model_name="a/b"), other, root / "refused")
    assert "registry.model_name" in str(refused.value)
    assert client(inputs).get_experiment_by_name("a/b") is None


@pytest.mark.slow
def test_mlflow_server_gets_the_run_as_source_and_the_files_address_as_tag(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path)
    with tracking_server(tmp_path / "server") as address:
        registered, _ = run_stage(mlflow(address=address), inputs, tmp_path / "out")
        again, note = run_stage(mlflow(address=address), inputs, tmp_path / "again")
        store = client(replace(inputs, mlflow_uri=address))
        version = store.get_model_version("speller", registered.version)
        artifacts = [file.path for file in store.list_artifacts(version.run_id)]
    assert version.source == f"runs:/{version.run_id}"
    assert version.tags["uri"] == inputs.checkpoint.model_dir.as_uri()
    assert sorted(artifacts) == ["base", "run.json", "tuned"]
    assert (again.version, "already" in note) == (registered.version, True)
    assert (tmp_path / "out" / "logs" / "mlflow" / "log.txt").read_text() == ""


def test_mlflow_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    away = "http://ada:canary-password@127.0.0.1:9"
    with pytest.raises(StageError, match="MLflow at http") as failed:
        run_stage(mlflow(address=away), register_inputs(tmp_path), tmp_path / "out")
    assert "canary" not in str(failed.value) + written(tmp_path / "out")
