"""InferenceServices: what KServe's fields are, and what no cluster could serve."""

from __future__ import annotations

from typing import Any

import pytest

from sft.errors import ConfigError
from sft.runner.export_kserve import RUNTIMES, Serving, check, manifests, storage_uri

S3 = "s3://bucket/models/0f3a"


def made(uri: str = S3, name: str = "Speller v2", **settings: Any) -> list[dict[str, Any]]:
    serving = Serving(**settings)
    check(serving)
    return manifests(name, uri, serving, annotations={"sft/run": "speller-1a2b"})


def test_a_model_in_a_bucket_is_served_with_the_secret_of_its_storage() -> None:
    account, service = made(secret="minio-secret", namespace="models")
    assert account == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "speller-v2-storage", "namespace": "models"},
        "secrets": [{"name": "minio-secret"}],
    }
    assert service == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "speller-v2",
            "namespace": "models",
            "annotations": {"serving.kserve.io/deploymentMode": "RawDeployment", "sft/run": "speller-1a2b"},
        },
        "spec": {
            "predictor": {
                "serviceAccountName": "speller-v2-storage",
                "model": {
                    "modelFormat": {"name": "vLLM"},
                    "runtime": "vllm-cuda-runtime",
                    "storageUri": S3,
                    "resources": {
                        "requests": {"cpu": "4", "memory": "16Gi"},
                        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
                    },
                },
            }
        },
    }


def test_a_data_connection_knows_its_bucket() -> None:
    [service] = made(storage_key="my-connection")
    assert service["spec"]["predictor"]["model"]["storage"] == {"key": "my-connection", "path": "models/0f3a"}
    assert "storageUri" not in service["spec"]["predictor"]["model"]
    assert "serviceAccountName" not in service["spec"]["predictor"]


def test_an_account_that_is_there_is_named_and_not_made() -> None:
    [service] = made(service_account="reader")
    assert service["spec"]["predictor"]["serviceAccountName"] == "reader"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_has_its_format_and_mode(runtime: str) -> None:
    [service] = made("pvc://claim/models", runtime=runtime, gpus=0)
    is_upstream = runtime.startswith("kserve-")
    mode = service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    assert mode == ("Standard" if is_upstream else "RawDeployment")
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == ("huggingface" if runtime == "kserve-huggingfaceserver" else "vLLM")
    assert "nvidia.com/gpu" not in model["resources"]["limits"]


def test_without_gpus_the_runtime_is_that_of_cpus() -> None:
    [service] = made("pvc://claim/models", gpus=0)
    assert service["spec"]["predictor"]["model"]["runtime"] == "vllm-cpu-x86-runtime"


def test_a_name_is_one_that_kubernetes_takes() -> None:
    [service] = made("pvc://claim/m", name="7B " + "long" * 30)
    name = service["metadata"]["name"]
    assert name.startswith("model-7b-long")
    assert len(f"{name}-storage") < 63


def test_a_commit_on_the_hub_is_spelled_as_kserve_does() -> None:
    assert storage_uri("hf://org/model@abc123") == "hf://org/model:abc123"
    assert storage_uri(S3) == S3


def test_what_the_registrys_page_reads_of_a_bucket_is_no_part_of_the_models_path() -> None:
    uri = storage_uri(f"{S3}?endpoint=http%3A%2F%2Fminio%3A9000&defaultRegion=us-east-1")
    assert uri == S3
    [service] = made(uri, storage_key="my-connection")
    assert service["spec"]["predictor"]["model"]["storage"]["path"] == "models/0f3a"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///runs/store", "is on this machine"),
        ("oci://host/m@sha256:1", "KServe serves images with the model under /models"),
        ("models:/m/1", "is none of s3, pvc, hf"),
    ],
)
def test_what_no_cluster_can_fetch_is_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        storage_uri(uri)


def test_every_wrong_option_is_named_at_once() -> None:
    serving = Serving(runtime="tgi", gpus=-1, memory="much", secret="A_B", service_account="x", namespace="Ü")
    with pytest.raises(ConfigError) as error:
        check(serving)
    for key in ("--runtime", "--gpus", "--memory", "--secret and --service-account", "--secret", "--namespace"):
        assert any(problem.key == key for problem in error.value.problems), key


def test_a_bucket_needs_a_login_and_a_connection_a_bucket() -> None:
    with pytest.raises(ConfigError, match="is missing: a login for s3://bucket"):
        made()
    with pytest.raises(ConfigError, match="is of a bucket, and the model is in pvc://"):
        made("pvc://claim/m", storage_key="connection")
