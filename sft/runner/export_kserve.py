"""Owns KServe's InferenceService for a model that lies where a cluster reaches it. Pure: nothing is asked or created.

Fields: kserve, config/crd/full/serving.kserve.io_inferenceservices.yaml (``serving.kserve.io/v1beta1``); runtimes:
config/runtimes there, and Open Data Hub's model controller, whose runtimes are templates that a namespace instantiates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sft.config.k8s_quantity import is_quantity
from sft.errors import ConfigError, Problem

_UPSTREAM = "Standard"
_OPEN_DATA_HUB = "RawDeployment"
RUNTIMES = {
    "vllm-cuda-runtime": ("vLLM", _OPEN_DATA_HUB),
    "vllm-cpu-x86-runtime": ("vLLM", _OPEN_DATA_HUB),
    "kserve-vllmserver": ("vLLM", _UPSTREAM),
    "kserve-huggingfaceserver": ("huggingface", _UPSTREAM),
}
"""Runtimes that answer /v1/chat/completions with the model's own chat template: its format and deployment mode."""
_SCHEMES = ("s3", "pvc", "hf")
_LONGEST_NAME = 40
"""Characters: deployments and pods add to the name, within 63."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What the cluster gives the server.

    Attributes:
        runtime: Of `RUNTIMES`; None = Open Data Hub's vLLM, for GPUs or without.
        namespace: None = that of whoever applies it.
        secret: With the storage's login; a service account that has it is made beside.
        service_account: One that is there already, in place of `secret`.
        storage_key: Of Open Data Hub's data connection, in place of both: it knows bucket and login.
        gpus: 0 = none.
        cpu: Asked for.
        memory: Asked for, and the most that it gets.
    """

    runtime: str | None = None
    namespace: str | None = None
    secret: str | None = None
    service_account: str | None = None
    storage_key: str | None = None
    gpus: int = 1
    cpu: str = "4"
    memory: str = "16Gi"

    @property
    def runtime_name(self) -> str:
        return self.runtime or ("vllm-cuda-runtime" if self.gpus else "vllm-cpu-x86-runtime")


def check(serving: Serving) -> None:
    """Refuse options that no cluster takes.

    Raises:
        ConfigError: With every problem.
    """
    problems = [
        Problem(key=f"--{name}", value=value, rule="is no amount", suggestion="try 4, 500m or 16Gi")
        for name, value in (("cpu", serving.cpu), ("memory", serving.memory))
        if not is_quantity(value)
    ]
    if serving.gpus < 0:
        problems.append(Problem(key="--gpus", value=str(serving.gpus), rule="must not be negative"))
    if serving.runtime_name not in RUNTIMES:
        rule = "is not known to serve a model's chat template"
        suggestion = f"one of {', '.join(RUNTIMES)}"
        problems.append(Problem(key="--runtime", value=serving.runtime, rule=rule, suggestion=suggestion))
    ways = {
        "--secret": serving.secret,
        "--service-account": serving.service_account,
        "--storage-key": serving.storage_key,
    }
    if len(given := [name for name, value in ways.items() if value]) > 1:
        problems.append(Problem(key=" and ".join(given), rule="say the same: give one of them"))
    for key, value in {**ways, "--namespace": serving.namespace}.items():
        if value is not None and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
            problems.append(Problem(key=key, value=value, rule="is no name that Kubernetes takes"))
    if problems:
        raise ConfigError(problems)


def storage_uri(uri: str) -> str:
    """Return a registered model's uri as KServe's storage initializer reads it.

    Raises:
        ConfigError: A cluster can't fetch it.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":
        repository, _, commit = rest.partition("@")
        return f"hf://{repository}:{commit}" if commit else uri
    if scheme == "s3":
        return uri.partition("?")[0]  # for the registry's page; KServe has it from the login
    if scheme not in _SCHEMES:
        rule = {
            "file": "is on this machine, where no cluster reaches it",
            "oci": "is an artifact, and KServe serves images with the model under /models",
        }.get(scheme, f"is none of {', '.join(_SCHEMES)}, which KServe's storage initializer fetches")
        suggestion = "upload and register it: sft register RUN registry=… registry.upload=s3://bucket/models"
        raise ConfigError([Problem(key="the model's place", value=uri, rule=rule, suggestion=suggestion)])
    return uri


def manifests(name: str, uri: str, serving: Serving, *, annotations: dict[str, str]) -> list[dict[str, Any]]:
    """Return the InferenceService, after the service account that it needs.

    Args:
        name: The model's.
        uri: Where its folder is, as `storage_uri` returns it.
        serving: What the cluster gives the server.
        annotations: What it says of the model besides.

    Raises:
        ConfigError: A bucket needs a login, and none is named; or a data connection is named for what is no bucket.
    """
    _check_login(uri, serving)
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LONGEST_NAME].strip("-")
    plain = plain if plain[:1].isalpha() else f"model-{plain}".rstrip("-")
    model_format, mode = RUNTIMES[serving.runtime_name]
    limits = {"memory": serving.memory, **({"nvidia.com/gpu": str(serving.gpus)} if serving.gpus else {})}
    model: dict[str, Any] = {"modelFormat": {"name": model_format}, "runtime": serving.runtime_name}
    if serving.storage_key:
        model["storage"] = {"key": serving.storage_key, "path": uri.removeprefix("s3://").partition("/")[2]}
    else:
        model["storageUri"] = uri
    model["resources"] = {"requests": {"cpu": serving.cpu, "memory": serving.memory}, "limits": limits}
    account = serving.service_account or (f"{plain}-storage" if serving.secret else None)
    place = {"namespace": serving.namespace} if serving.namespace else {}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": plain,
            **place,
            "annotations": {"serving.kserve.io/deploymentMode": mode, **annotations},
        },
        "spec": {"predictor": {**({"serviceAccountName": account} if account else {}), "model": model}},
    }
    return [*_accounts(account, place, serving), service]


def _accounts(account: str | None, place: dict[str, str], serving: Serving) -> Iterator[dict[str, Any]]:
    if serving.secret:
        metadata = {"name": account, **place}
        yield {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "secrets": [{"name": serving.secret}],
        }


def _check_login(uri: str, serving: Serving) -> None:
    key, rule, suggestion = "--secret", "", ""
    if uri.startswith("s3://") and not (serving.secret or serving.service_account or serving.storage_key):
        rule = f"is missing: a login for {uri}"
        suggestion = "--secret NAME, --service-account NAME, or --storage-key NAME of a data connection"
    if serving.storage_key and not uri.startswith("s3://"):
        key, rule, suggestion = "--storage-key", f"is of a bucket, and the model is in {uri}", "leave it out"
    if rule:
        raise ConfigError([Problem(key=key, rule=rule, suggestion=suggestion)])
