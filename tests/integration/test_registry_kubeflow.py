"""The registry stage against a model registry server.

A stand-in that checks every message, or, where MODEL_REGISTRY_URL (and MODEL_REGISTRY_TOKEN) say so, a real
server; tests that need faults always use the stand-in.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from sft.adapters.registry import kubeflow_api
from sft.adapters.registry.kubeflow import Kubeflow
from sft.adapters.registry.kubeflow_api import LikelyTemporaryError
from sft.artifacts import GateReport, UploadedModel
from sft.config.schema import OnConflict, RegistryConfig, RegistryKind
from sft.errors import StageError
from tests.servers.model_registry import CONTRACT_VERSION, DROP, ModelRegistryServer
from tests.support.register_inputs import register_inputs, report, run_stage, sha, written

TOKEN = "canary-token-5d41402a"


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
    url = f"{address}/api/model_registry/{CONTRACT_VERSION}/{path}?{urlencode(query)}"
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
        url = f"{server.url}/api/model_registry/{CONTRACT_VERSION}/registered_models"
        body = {"name": "speller", "customProperties": {"rows": {"metadataType": "MetadataIntValue", "int_value": 80}}}
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        urlopen(Request(url, json.dumps(body).encode(), headers), timeout=30).close()
    assert [violation.split()[:2] for violation in server.violations] == [["request", "POST"], ["answer", "POST"]]


def test_a_version_carries_where_it_came_from_with_types_kept(address: str, tmp_path: Path) -> None:
    cfg = kubeflow(address)
    gates = GateReport(root=tmp_path, passed=("holdout.acc is 0.9375: > 0.5",))
    inputs = register_inputs(tmp_path, gates=gates)
    registered, note = run_stage(cfg, inputs, tmp_path / "out")

    model, [version], [artifact] = held(address, cfg)
    assert model["owner"] == "ada"
    assert (version["name"], version["author"], version["description"]) == ("1.0.0", "ada", "spells numbers")
    facts = version["customProperties"]
    assert facts["checkpoint.digest"]["string_value"] == inputs.checkpoint.digest
    assert facts["gates"]["string_value"] == "holdout.acc is 0.9375: > 0.5"
    assert facts["dataset.num_train"] == {"double_value": 80, "metadataType": "MetadataDoubleValue"}
    assert facts["base_model.num_parameters"]["double_value"] == 1_543_714_304
    assert (facts["base.holdout.acc"]["double_value"], facts["tuned.holdout.acc"]["double_value"]) == (0.0, 0.9375)
    assert facts["base_model"]["string_value"] == "Qwen/Qwen2.5-1.5B-Instruct@989aa79"
    assert facts["libraryName"]["string_value"] == "transformers"
    assert facts["record"]["string_value"] == f"{inputs.package.model_dir.as_uri()}/sft.json"
    assert not {key for key in facts if key.startswith(("training.", "model.", "versions."))}  # the record has them
    assert len(facts) < 30
    assert artifact["state"] == "LIVE"
    assert artifact["uri"] == inputs.package.model_dir.as_uri()
    assert (artifact["modelFormatName"], artifact["modelFormatVersion"]) == ("pytorch", "1.0")
    assert (artifact["modelSourceKind"], artifact["modelSourceId"]) == ("sft", "run-1")

    record = json.loads((tmp_path / "out" / "registration.json").read_text())
    assert record["metadata"] == registered.metadata
    assert (record["registry"], record["name"], record["version"]) == ("kubeflow", cfg.model_name, "1.0.0")
    assert record["api"] == CONTRACT_VERSION
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
    assert version["customProperties"]["run_id"]["string_value"] == "run-2"
    assert registered.metadata["tuned.holdout.acc"] == 1.0
    assert note.endswith("; its scores were updated; its facts were of run-1 and are of this run now")


def test_another_checkpoint_under_the_same_version_is_refused(address: str, tmp_path: Path) -> None:
    cfg = kubeflow(address)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    with pytest.raises(StageError, match=r"registry\.model_version=1\.0\.0") as refused:
        run_stage(cfg, register_inputs(tmp_path, weights="other"), tmp_path / "second")
    assert sha("other") in str(refused.value)
    assert "choose a new registry.model_version" in str(refused.value)


@pytest.mark.long
def test_a_half_registered_model_is_completed_by_the_same_command(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    stand_in.fail("POST", "artifacts", 500, 500, 500, 500)
    with pytest.raises(StageError, match="HTTP 500") as failed:
        run_stage(cfg, inputs, tmp_path / "first")
    assert stand_in.url in str(failed.value)
    assert "repeat the command to register" in str(failed.value)
    assert len(stand_in.rows["model_versions"]) == 1
    assert not stand_in.rows["model_artifacts"]

    _, note = run_stage(cfg, inputs, tmp_path / "second")
    assert "partly registered" in note
    _, [_], [artifact] = held(stand_in.url, cfg)
    assert artifact["uri"] == inputs.package.model_dir.as_uri()
    assert artifact["modelSourceId"] == "run-1"


@pytest.mark.long
@pytest.mark.parametrize("fault", [DROP, 503])
def test_a_server_that_fails_between_the_calls_is_asked_again(
    fault: int, stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg = kubeflow(stand_in.url)
    stand_in.fail("POST", "model_versions", fault)
    stand_in.fail("POST", "artifacts", fault)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    _, [_], [_] = held(stand_in.url, cfg)


def test_a_label_that_another_checkpoint_has_is_counted_up_where_that_is_asked_for(
    address: str, tmp_path: Path
) -> None:
    cfg = kubeflow(address, on_conflict=OnConflict.next_version)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    other = register_inputs(tmp_path, weights="other")
    registered, note = run_stage(cfg, other, tmp_path / "second")
    assert registered.version == "1.0.1"
    again, note = run_stage(cfg, other, tmp_path / "third")
    assert again.version == "1.0.1"
    assert "is the same checkpoint already" in note
    _, versions, _ = held(address, cfg)
    assert [version["name"] for version in versions] == ["1.0.0", "1.0.1"]


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


@pytest.mark.long
@pytest.mark.parametrize("api", ["v1", "v1alpha3"])
def test_either_api_is_spoken_behind_a_gateways_path_and_kept_in_the_record(
    api: str, contract_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    with ModelRegistryServer(contract_file, token=TOKEN, api=api, prefix="/team/registry") as server:
        first, _ = run_stage(kubeflow(server.url, model_name="speller"), register_inputs(tmp_path), tmp_path / "out")
        rescored = register_inputs(tmp_path, report=report(tmp_path / "again", 0.5, 1.0))
        run_stage(kubeflow(server.url, model_name="speller"), rescored, tmp_path / "again-out")
        listed = Kubeflow(server.url, port=None, ca=None).models(None, folder=tmp_path / "list")
    assert server.violations == []
    assert first.api == api
    assert [(model.name, model.facts["tuned.holdout.acc"]) for model in listed] == [("speller", 1.0)]


def test_an_address_without_a_registry_or_with_a_page_for_people_is_told_so(
    contract_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    with ModelRegistryServer(contract_file, token=TOKEN, api="v2") as server:
        with pytest.raises(StageError, match="v1alpha3 and /v1 are not found") as refused:
            run_stage(kubeflow(server.url), register_inputs(tmp_path), tmp_path / "out")
        assert "the path of a gateway" in str(refused.value)
        monkeypatch.setattr(server, "answer", lambda *_: (200, "<html>Log in</html>"))
        with pytest.raises(StageError, match=r"with text/plain, not with JSON"):
            run_stage(kubeflow(server.url), register_inputs(tmp_path), tmp_path / "login")
    assert len(server.requests) == 3


@pytest.mark.long
def test_a_name_that_is_like_anothers_is_a_model_of_its_own(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    names = ["likeXtest", "like_test", "like%test", 'a "quoted\\ one', "Like_Test"]
    for number, name in enumerate(names):
        inputs = register_inputs(tmp_path, weights=f"weights {number}")
        run_stage(kubeflow(stand_in.url, model_name=name), inputs, tmp_path / f"out {number}")
    assert [row["name"] for row in stand_in.rows["registered_models"].values()] == names
    versions = stand_in.rows["model_versions"].values()
    assert len({row["registeredModelId"] for row in versions}) == len(names)
    for label in ("1_0", "1x0"):
        inputs = register_inputs(tmp_path, weights=f"weights {label}")
        cfg = kubeflow(stand_in.url, model_name="likeXtest", model_version=label)
        assert "registered likeXtest" in run_stage(cfg, inputs, tmp_path / f"out {label}")[1]


@pytest.mark.long
def test_a_name_that_a_database_takes_for_anothers_is_refused_at_once(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    stand_in.ignores_case = True
    first = kubeflow(stand_in.url, model_name="Speller", model_version="1.0-RC")
    run_stage(first, register_inputs(tmp_path), tmp_path / "first")
    registry = Kubeflow(stand_in.url, port=None, ca=None)
    assert "Speller is: on MySQL it takes both for one" in registry.check("speller", "1", folder=tmp_path / "check")
    inputs = register_inputs(tmp_path, weights="other")
    for name, label, said in [("speller", "2", "speller for Speller"), ("Speller", "1.0-rc", "1.0-rc for 1.0-RC")]:
        stand_in.requests.clear()
        with pytest.raises(StageError, match=f"takes {said}, which it has") as refused:
            run_stage(kubeflow(stand_in.url, model_name=name, model_version=label), inputs, tmp_path / said)
        assert "registers later" not in str(refused.value)
        assert [status for method, _, status in stand_in.requests if method == "POST"] == [409]


def test_a_later_registration_keeps_the_types_and_what_others_have_said(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg = kubeflow(stand_in.url, labels=["team-a"])
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    [version] = stand_in.rows["model_versions"].values()
    kept = version["customProperties"]
    assert kept["team-a"] == {"metadataType": "MetadataStringValue", "string_value": ""}
    others = {
        "rows": {
            "metadataType": "MetadataIntValue",
            "int_value": "2147483647",
        },  # ten digits: the client's models refuse
        "odd": {"metadataType": "MetadataStructValue", "struct_value": "e30="},
        "team-a": {"metadataType": "MetadataStringValue", "string_value": "ours"},
        "reviewed": {"metadataType": "MetadataBoolValue", "bool_value": True},
    }
    of_earlier_release = {
        "dataset.num_train": {"metadataType": "MetadataIntValue", "int_value": "80"},
        "training.seed": {"metadataType": "MetadataIntValue", "int_value": "7"},
    }
    kept |= others | of_earlier_release
    rescored = register_inputs(tmp_path, report=report(tmp_path / "again", 0.5, 1.0), run_id="run-2")
    run_stage(cfg, rescored, tmp_path / "second")
    assert all("2147483647" in violation for violation in stand_in.violations)  # planted above
    stand_in.violations.clear()
    now = version["customProperties"]
    assert {key: now[key] for key in others} == others
    assert now["dataset.num_train"] == of_earlier_release["dataset.num_train"]
    assert "training.seed" not in now  # of run-1, and this tells of run-2
    assert now["base_model.num_parameters"]["double_value"] == 1_543_714_304
    assert now["tuned.holdout.acc"] == {"metadataType": "MetadataDoubleValue", "double_value": 1}


@pytest.mark.parametrize("collection", ["registered_models", "model_versions"])
def test_nothing_is_registered_in_what_is_archived(
    collection: str, stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg = kubeflow(stand_in.url)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "first")
    [row] = stand_in.rows[collection].values()
    row["state"] = "ARCHIVED"
    stand_in.requests.clear()
    with pytest.raises(StageError, match=f"{cfg.model_name}.* is archived") as refused:
        run_stage(cfg, register_inputs(tmp_path), tmp_path / "second")
    assert "restore it on the registry's page" in str(refused.value)
    assert {method for method, _, _ in stand_in.requests} == {"GET"}


def test_a_version_that_was_made_by_hand_is_filled_where_that_is_asked_for(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    model = stand_in._create("registered_models", {"name": cfg.model_name})[1]
    note = {"metadataType": "MetadataStringValue", "string_value": "for the launch"}
    made = {"name": "1.0.0", "registeredModelId": model["id"], "customProperties": {"why": note}}
    version = stand_in._create("model_versions", made)[1]
    by_hand = {"name": "weights", "artifactType": "model-artifact", "uri": "s3://old", "modelVersionId": version["id"]}
    stand_in._create("model_artifacts", by_hand)
    with pytest.raises(StageError, match=r"not registered by sft.*(\n.*)*registry\.on_conflict=adopt"):
        run_stage(cfg, inputs, tmp_path / "refused")
    adopting = replace(cfg, on_conflict=OnConflict.adopt)
    _, told = run_stage(adopting, inputs, tmp_path / "filled")
    assert f"filled {cfg.model_name} version 1.0.0" in told
    facts = version["customProperties"]
    assert (facts["why"], facts["checkpoint.digest"]["string_value"]) == (note, inputs.checkpoint.digest)
    [artifact] = stand_in.rows["model_artifacts"].values()
    assert (artifact["name"], artifact["uri"]) == ("weights", inputs.package.model_dir.as_uri())
    with pytest.raises(StageError, match="of another checkpoint"):
        run_stage(adopting, register_inputs(tmp_path, weights="other"), tmp_path / "other")


def test_a_refusal_that_would_come_again_is_asked_for_once(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    stand_in.fail("POST", "model_versions", 400)
    with pytest.raises(StageError, match="HTTP 400: injected") as refused:
        run_stage(kubeflow(stand_in.url), register_inputs(tmp_path), tmp_path / "out")
    assert "the same is answered again" in str(refused.value)
    with pytest.raises(StageError, match="value too long"):
        run_stage(kubeflow(stand_in.url, model_name="n" * 256), register_inputs(tmp_path), tmp_path / "long")
    assert [(word, status) for method, word, status in stand_in.requests if method == "POST"] == [
        *[("registered_models", 201), ("model_versions", 400), ("registered_models", 500)]
    ]


def test_a_silent_server_is_left_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_api, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LikelyTemporaryError, match=r"can't be reached: no answer within"):
            kubeflow_api.RegistryApi(address, None, token=None, ca=None)


@pytest.mark.long
def test_many_models_are_listed_by_pages(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    stand_in.page_size = 100
    cfg = kubeflow(stand_in.url, model_name="speller")
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    for number in range(250):
        model = stand_in._create("registered_models", {"name": f"odd \x01 {number}"})[1]
        stand_in._create("model_versions", {"name": "1", "registeredModelId": model["id"]})
    stand_in._create("model_artifacts", {"name": "a", "artifactType": "doc-artifact", "modelVersionId": "5"})
    stand_in.requests.clear()
    listed = Kubeflow(stand_in.url, port=None, ca=None).models(None, folder=tmp_path / "list")
    assert len(listed) == 251
    assert (listed[0].uri, listed[0].facts["run_id"]) == (
        register_inputs(tmp_path).package.model_dir.as_uri(),
        "run-1",
    )
    words = [word for _, word, _ in stand_in.requests]
    assert (words.count("model_versions"), words.count("artifacts")) == (3, 250)  # ours say where they are
    [only] = Kubeflow(stand_in.url, port=None, ca=None).models("speller", folder=tmp_path / "one")
    assert only == listed[0]
    assert not only.is_archived
    next(iter(stand_in.rows["registered_models"].values()))["state"] = "ARCHIVED"
    [hidden] = Kubeflow(stand_in.url, port=None, ca=None).models("speller", folder=tmp_path / "hidden")
    assert hidden.is_archived


@pytest.mark.long
def test_what_a_registry_has_lost_is_known(stand_in: ModelRegistryServer, tmp_path: Path) -> None:
    cfg, inputs = kubeflow(stand_in.url), register_inputs(tmp_path)
    server, name = Kubeflow(stand_in.url, port=None, ca=None), cfg.model_name
    assert server.check(name, "1.0.0", folder=tmp_path / "check") == ""
    model, _ = run_stage(cfg, inputs, tmp_path / "out")
    assert "only the same checkpoint" in server.check(name, "1.0.0", folder=tmp_path / "again")
    assert server.has(name, model.version, inputs.checkpoint.digest, folder=tmp_path / "has")
    assert not server.has(name, model.version, sha("other"), folder=tmp_path / "other")
    stand_in.rows["model_artifacts"].clear()
    assert not server.has(name, model.version, inputs.checkpoint.digest, folder=tmp_path / "lost")


@pytest.mark.parametrize(
    ("uri", "place", "environment"),
    [
        ("hf://ada/speller@0123abc", "hf://ada/speller:0123abc", {}),
        (
            "s3://bucket/models/a b",
            "s3://bucket/models/a b?endpoint=http%3A%2F%2Fminio%3A9000&defaultRegion=eu-1",
            {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_DEFAULT_REGION": "eu-1"},
        ),
        (
            "s3://bucket/m",
            "s3://bucket/m?endpoint=https%3A%2F%2Fs3.us-east-1.amazonaws.com&defaultRegion=us-east-1",
            {},
        ),
    ],
)
def test_a_place_is_spelled_as_the_registrys_page_reads_it(
    uri: str,
    place: str,
    environment: dict[str, str],
    stand_in: ModelRegistryServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    uploaded = UploadedModel(root=tmp_path, uri=uri, num_files=1, num_bytes=1)
    model, _ = run_stage(kubeflow(stand_in.url), register_inputs(tmp_path, uploaded=uploaded), tmp_path / "out")
    [artifact] = stand_in.rows["model_artifacts"].values()
    assert (artifact["uri"], model.uri) == (place, place)
    [version] = stand_in.rows["model_versions"].values()
    assert version["customProperties"]["record"]["string_value"] == f"{place.partition('?')[0]}/sft.json"


def test_a_server_that_is_away_fails_this_stage_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"http://127\.0\.0\.1:9 can't be reached") as failed:
        run_stage(kubeflow("http://127.0.0.1:9"), register_inputs(tmp_path), tmp_path / "out")
    assert "repeat the command to register" in str(failed.value)


def test_a_server_of_a_private_authority_is_trusted_with_its_certificate_alone(
    contract_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    monkeypatch.setenv("MODEL_REGISTRY_TOKEN", TOKEN)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    with ModelRegistryServer(contract_file, token=TOKEN, certificate=(certificate, key)) as server:
        with pytest.raises(StageError, match=r"can't be reached.*certificate"):
            run_stage(kubeflow(server.url), register_inputs(tmp_path), tmp_path / "refused")
        run_stage(kubeflow(server.url, ca=str(certificate)), register_inputs(tmp_path), tmp_path / "out")
    assert len(server.rows["model_artifacts"]) == 1
    assert server.violations == []


def test_the_source_and_the_storage_of_the_recipe_reach_the_artifact(
    stand_in: ModelRegistryServer, tmp_path: Path
) -> None:
    source = {"kind": "kfp", "class": "pipelinerun", "group": "team-a", "id": "run-7", "name": "nightly"}
    storage = {"storage_key": "minio-secret", "storage_path": "models/speller"}
    cfg = kubeflow(stand_in.url, **{f"source_{key}": value for key, value in source.items()}, **storage)
    run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    [artifact] = stand_in.rows["model_artifacts"].values()
    assert {key: artifact[f"modelSource{key.capitalize()}"] for key in source} == source
    assert (artifact["storageKey"], artifact["storagePath"]) == tuple(storage.values())


def test_what_is_registered_is_where_the_model_was_uploaded_to_also_later(address: str, tmp_path: Path) -> None:
    cfg, inputs = kubeflow(address), register_inputs(tmp_path)
    run_stage(cfg, inputs, tmp_path / "out")
    _, _, [here] = held(address, cfg)
    assert here["uri"] == inputs.package.model_dir.as_uri()
    place = "oci://host/org/speller@sha256:" + "0" * 64
    uploaded = UploadedModel(root=tmp_path, uri=place, num_files=1, num_bytes=1)
    registered, note = run_stage(cfg, register_inputs(tmp_path, uploaded=uploaded), tmp_path / "later")
    _, [version], [there] = held(address, cfg)
    assert (there["uri"], registered.uri, version["customProperties"]["uri"]["string_value"]) == (place, place, place)
    assert f"already; its uri is now {place}" in note
    assert run_stage(cfg, register_inputs(tmp_path, uploaded=uploaded), tmp_path / "same")[1].endswith(" already")
