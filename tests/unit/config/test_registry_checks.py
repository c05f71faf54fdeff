"""Settings of `registry` that the chosen registry does not read, or can't take, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.registry_checks import check_registry
from sft.config.schema import OnConflict, RegistryConfig, RegistryKind


def problems(kind: RegistryKind, **changes: Any) -> list[str]:
    return [str(problem) for problem in check_registry(RegistryConfig(kind=kind, **changes))]


@pytest.mark.parametrize("kind", RegistryKind)
def test_defaults_pass_with_every_registry(kind: RegistryKind) -> None:
    assert problems(kind) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", 9000, "registry.port=9000: {}; try null"),
        ("ca", "ca.pem", "registry.ca=ca.pem: {}; try null"),
        ("uri", "s3://models/m", "registry.uri=s3://models/m: {}; try null"),
        ("on_conflict", OnConflict.next_version, "registry.on_conflict=next_version: {}; try error"),
        ("model_format_name", "gguf", "registry.model_format_name=gguf: {}; try pytorch"),
        ("source_group", "team", "registry.source_group=team: {}; try null"),
        ("storage_path", "models/m", "registry.storage_path=models/m: {}; try null"),
    ],
)
def test_a_setting_that_only_kubeflow_reads_is_refused_with_mlflow(name: str, value: object, said: str) -> None:
    rule = "is for a Kubeflow registry, and this one is MLflow"
    assert problems(RegistryKind.mlflow, **{name: value}) == [said.format(rule)]
    assert problems(RegistryKind.none, **{name: value}) == []
    assert problems(RegistryKind.kubeflow, address="https://host", **{name: value}) == []


@pytest.mark.parametrize("name", ["org/model", "a:b", "..", ".", "../up"])
def test_a_name_that_mlflow_refuses_is_refused_before_the_training(name: str) -> None:
    [problem] = problems(RegistryKind.mlflow, model_name=name)
    assert problem.startswith(f"registry.model_name={name}: names a model in MLflow")
    assert problems(RegistryKind.kubeflow, address="https://host", model_name=name) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("registry.example", "must start with http:// or https://; try https://registry.example"),
        ("https://", "must name a host"),
        ("http://[::1", "is no address: Invalid IPv6 URL"),
        ("https://host:99999", "is no address: Port out of range 0-65535"),
        (
            "https://host/path?part=1",
            "must be scheme, host, port and path alone; the token goes into the environment variable "
            "MODEL_REGISTRY_TOKEN",
        ),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, said: str) -> None:
    assert problems(RegistryKind.kubeflow, address=address) == [f"registry.address={address}: {said}"]


@pytest.mark.parametrize("address", ["http://[::1", "https://"])
def test_so_is_a_tracking_servers(address: str) -> None:
    [problem] = problems(RegistryKind.mlflow, address=address)
    assert problem.startswith(f"registry.address={address}: ")


@pytest.mark.parametrize("address", ["", "sqlite:///m.db", "mlruns", "databricks://profile"])
def test_mlflow_takes_what_is_no_server(address: str) -> None:
    assert problems(RegistryKind.mlflow, address=address) == []


def test_a_port_beside_an_address_that_has_one_is_refused() -> None:
    assert problems(RegistryKind.kubeflow, address="http://host:9000", port=9001) == [
        "registry.port=9001: is not read: registry.address has the port 9000; leave one of them out"
    ]
    assert problems(RegistryKind.kubeflow, address="http://host:9000") == []


@pytest.mark.parametrize("name", ["model_name", "model_version"])
def test_a_name_that_a_kubeflow_registry_would_cut_is_refused(name: str) -> None:
    [problem] = problems(RegistryKind.kubeflow, address="http://host", **{name: "n" * 245})
    assert problem.endswith(": has 245 characters, and a Kubeflow registry keeps 244; choose a shorter one")
    assert problems(RegistryKind.kubeflow, address="http://host", **{name: "n" * 244}) == []
    assert problems(RegistryKind.mlflow, **{name: "n" * 245}) == []


def test_an_authority_for_an_address_without_tls_is_refused() -> None:
    assert problems(RegistryKind.kubeflow, address="http://host", ca="ca.pem") == [
        "registry.ca=ca.pem: is for https://, and registry.address has http://; try null"
    ]


def test_a_password_in_an_address_is_not_shown() -> None:
    assert "canary" not in problems(RegistryKind.kubeflow, address="ftp://me:canary@host")[0]
