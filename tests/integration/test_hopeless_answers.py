"""What can only be refused again is asked once, whichever library asks: S3, the hub, MLflow, vLLM; real servers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters import hub, storage
from sft.adapters.evaluation import vllm_server
from sft.adapters.instructlab.tracking import Trackers
from sft.adapters.kubeflow import job
from sft.adapters.kubeflow.cluster import Cluster
from sft.adapters.upload import Upload, s3
from sft.config.schema import RegistryConfig, RegistryKind
from sft.errors import DataError, StageError
from tests.servers.scripted import Answer, Request, Server, serving
from tests.support.register_inputs import register_inputs, run_stage

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "not-a-real-one")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def s3_refusal(code: str) -> Callable[[Request], Answer]:
    """Return what S3 answers: an error's code is in the body, which HEAD has not."""
    status = 404 if code.startswith("NoSuch") else 403
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>said</Message></Error>'.encode()
    return lambda _: Answer(status, body, {"Content-Type": "application/xml"})


def upload_to(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    (folder / "config.json").write_bytes(b"{}")
    model = Upload(
        host="bucket", path="x", tag=None, folder=str(folder), files={"config.json": "0" * 64}, digest="0" * 64,
        name="m", version="1",
    )  # fmt: skip
    s3._handle({"upload": asdict(model), "folder": str(folder)})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDenied", r"lacks a permission[\s\S]*s3:PutObject"),
        ("NoSuchBucket", r"no bucket bucket[\s\S]*AWS_ENDPOINT_URL"),
        ("InvalidAccessKeyId", r"refuses the key[\s\S]*AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", r"refuses the key[\s\S]*AWS_SECRET_ACCESS_KEY"),
        ("ExpiredToken", r"refuses the key[\s\S]*AWS_SESSION_TOKEN"),
    ],
)
def test_an_upload_that_s3_refuses_is_sent_once(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(s3_refusal(code)) as server, pytest.raises(StageError, match=said):
        upload_to(server, tmp_path, monkeypatch)
    assert [request.method for request in server.requests] == ["HEAD", "PUT"]  # HEAD does not say why


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket", "NoSuchKey", "InvalidAccessKeyId", "ExpiredToken"])
def test_data_that_s3_refuses_is_asked_for_once(code: str, tmp_path: Path) -> None:
    with serving(s3_refusal(code)) as server:
        began = time.monotonic()
        with pytest.raises(DataError, match="try: check"):
            storage.find("s3://bucket/a.jsonl", {"endpoint_url": server.address})
        assert time.monotonic() - began < 60
    asked = [(request.method, request.path) for request in server.requests]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_the_hub_is_asked_once_for_what_it_refuses(status: int) -> None:
    codes = {401: "GatedRepo", 404: "RepoNotFound"}
    headers = {"X-Error-Code": codes[status]} if status in codes else {}
    with serving(lambda _: Answer(status, b"{}", headers)) as server:
        from huggingface_hub import HfApi

        with pytest.raises(DataError), hub.translate_errors("model", "org/name", None):
            hub.ask(lambda: HfApi(endpoint=server.address).repo_info("org/name"))
    assert len([request for request in server.requests if "org/name" in request.path]) == 1


def test_a_busy_hub_is_waited_for_but_not_for_years(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    busy = [
        Answer(429, headers={"Retry-After": "3000000000"}),
        Answer(429, headers={"Retry-After": "Fri, 31 Dec 2099 23:59:59 GMT"}),
        Answer(429, headers={"ratelimit": '"api";r=0;t=3000000000'}),
    ]
    good = Answer(200, json.dumps({"id": "org/name", "sha": "0" * 40}).encode(), {"Content-Type": "application/json"})
    with serving(lambda _: busy.pop(0) if busy else good) as server:
        assert hub.ask(lambda: HfApi(endpoint=server.address).repo_info("org/name")).sha == "0" * 40
        assert pauses == [60.0, 60.0, 60.0]
        busy += [Answer(503, headers={"Retry-After": "3000000000"})] * 2
        with pytest.raises(Exception, match=r"[\s\S]"):  # its client sleeps by itself, and then gets no file
            hf_hub_download("org/name", "x", revision="0" * 40, endpoint=server.address, cache_dir="/nonexistent")
    assert max(pauses) <= 61.0


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (400, "registry.address and registry.model_name"),
        (401, "set MLFLOW_TRACKING_USERNAME"),
        (403, "MLFLOW_TRACKING_TOKEN, of a user that may register"),
        (404, "registry.address and registry.model_name"),
    ],
)
def test_mlflow_is_asked_once_for_what_it_refuses(status: int, fix: str, tmp_path: Path) -> None:
    with serving(lambda _: Answer(status, b"no")) as server:
        cfg = RegistryConfig(kind=RegistryKind.mlflow, author="a", model_name="m", address=server.address)
        with pytest.raises(StageError) as refused:
            run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    assert fix in str(refused.value)
    assert len(server.requests) == 1


@pytest.mark.long
def test_no_mlflow_makes_a_registration_or_a_training_sleep_for_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.delenv("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", raising=False)
    began = time.monotonic()
    with serving(lambda _: Answer(503, b"busy", {"Retry-After": "20000"})) as server:
        cfg = RegistryConfig(kind=RegistryKind.mlflow, author="a", model_name="m", address=server.address)
        with pytest.raises(StageError, match="MLflow at http"):
            run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        with pytest.raises(Exception, match="503"):
            Trackers(("mlflow",), folder=tmp_path, work=tmp_path, project="p", run_name="r", settings={}, step=0)
    assert time.monotonic() - began < 200


@pytest.mark.parametrize("status", [401, 404])
def test_a_vllm_that_refuses_its_own_model_is_not_waited_for_until_the_end(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "_POLL_SECONDS", 0.0)
    (tmp_path / "log").write_text("its last line\n")
    alive: Any = SimpleNamespace(poll=lambda: None)
    with (
        serving(lambda _: Answer(status)) as server,
        pytest.raises(StageError, match=rf"answers HTTP {status} at [\s\S]*its last line[\s\S]*eval\.vllm\.python"),
    ):
        vllm_server._wait(f"{server.address}/models", "m", "k", alive, 3600, tmp_path / "log", lambda _: None)
    assert len(server.requests) < 30


@pytest.mark.parametrize(
    "content", [b"", b"[" * 50_000, b'{"data": [1]}', b'{"data": [{"id": "m", "max_model_len": "x"}]}']
)
def test_what_is_not_vllms_list_of_models_is_no_answer(content: bytes) -> None:
    with serving(lambda _: Answer(200, content)) as server:
        assert vllm_server._longest(f"{server.address}/models", "m", "k") == (None, None)


def kubeflow_answers(status: int, tmp_path: Path, **headers: str) -> tuple[str, list[Request]]:
    """Return what is said of a Model Registry that answers this to everything, and what it was asked."""
    with serving(lambda _: Answer(status, b'{"code": "", "message": "said"}', {**JSON, **headers})) as server:
        cfg = RegistryConfig(kind=RegistryKind.kubeflow, author="a", model_name="m", address=server.address)
        with pytest.raises(StageError) as refused:
            run_stage(cfg, register_inputs(tmp_path), tmp_path / "out")
    return str(refused.value), server.requests


@pytest.mark.long
@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (400, "check registry.model_name"),
        (401, "set MODEL_REGISTRY_TOKEN"),
        (403, "set MODEL_REGISTRY_TOKEN"),
        (422, "check registry.model_name"),
    ],
)
def test_a_model_registry_is_asked_once_for_what_it_refuses(status: int, fix: str, tmp_path: Path) -> None:
    said, requests = kubeflow_answers(status, tmp_path)
    assert fix in said
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(401, "put a new token"), (403, "grant the permissions"), (404, "install")]
)
def test_an_api_server_is_asked_once_for_what_it_refuses(status: int, said: str) -> None:
    with serving(lambda _: Answer(status, b'{"message": "no"}', JSON)) as server, pytest.raises(StageError, match=said):
        job.ask(lambda: cluster_at(server).find("key", "place"), lambda _: None)
    assert len(server.requests) == 1


def test_a_busy_api_server_says_when_but_not_in_a_hundred_years(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    busy = [Answer(503, headers={"Retry-After": text}) for text in ("7", "1000000000")]
    with serving(lambda _: busy.pop(0) if busy else Answer(200, b'{"items": []}', JSON)) as server:
        assert job.ask(lambda: cluster_at(server).find("key", "place"), lambda _: None) is None
    assert pauses == [7.0, 15.0]


def cluster_at(server: Server) -> Cluster:
    from kubernetes import client

    settings = client.Configuration()
    settings.host, settings.retries = server.address, False
    return Cluster(client.ApiClient(settings), "sft")
