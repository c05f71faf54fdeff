"""Owns which cluster is meant, and how its API server is reached: environment, kubeconfig, or the pod's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sft.adapters.kubeflow.cluster import SERVER, TOKEN, Cluster
from sft.adapters.proxy import proxy_of
from sft.errors import ConfigError, Problem, StageError
from sft.logs import remember

if TYPE_CHECKING:
    from kubernetes import client

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the API server is reached.

    Attributes:
        namespace: Namespace of the jobs; None = that of the context, or of the pod.
        verify_tls: Whether its certificate must be trusted.
        ca: PEM of the authority that signed it; None = the pod's own, or the system's.
    """

    namespace: str | None
    verify_tls: bool
    ca: str | None


def connect(access: Access, say: Callable[[str], None]) -> Cluster:
    """Return the cluster that the environment names, or the kubeconfig, or the one that this process runs in.

    Raises:
        ConfigError: None of them names one, or the environment has only half of it.
        StageError: The client is not installed, or the kubeconfig can't be used.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise StageError(
            f"training.launcher.kind=kubeflow: {error}", fix="pip install 'sft-runner[kubeflow]'"
        ) from error
    settings = client.Configuration()
    settings.retries = False  # `job.ask` repeats requests, and says so
    server, token = os.environ.get(SERVER, "").strip(), os.environ.get(TOKEN, "").strip()
    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())  # the client reads it on import
    file = Path(files.partition(os.pathsep)[0])
    namespace = access.namespace
    if server or token:
        if not (server and token):
            rule = "must be set, too, or neither"
            raise ConfigError([Problem(key=TOKEN if server else SERVER, rule=rule)])
        if not server.startswith(("https://", "http://")):
            raise ConfigError([Problem(key=SERVER, value=server, rule="must start with https://")])
        settings.host, settings.api_key = server.rstrip("/"), {"authorization": f"Bearer {token}"}
        own = _POD / "ca.crt"
        settings.ssl_ca_cert = access.ca or (str(own) if own.is_file() else None)
    elif file.is_file():
        try:
            config.load_kube_config(files, client_configuration=settings)
            context = config.list_kube_config_contexts(files)[1]["context"]
        except config.ConfigException as error:
            raise StageError(
                f"{file}: {error}", fix=f"set KUBECONFIG to another file, or set {SERVER} and {TOKEN}"
            ) from error
        namespace = namespace or context.get("namespace")
    elif (_POD / "token").is_file():
        config.load_incluster_config(client_configuration=settings)
    else:
        rule = f"no cluster is named: neither by {SERVER} and {TOKEN}, nor by a kubeconfig ({file}), nor is this a pod"
        raise ConfigError([Problem(key="training.launcher.kind", value="kubeflow", rule=rule)])
    settings.ssl_ca_cert = access.ca or settings.ssl_ca_cert
    remember(*(str(value).removeprefix("Bearer ") for value in settings.api_key.values()), settings.password or "")
    namespace = namespace or _own_namespace()
    if namespace is None:
        rule = "must be set if neither a kubeconfig's context nor a pod has a namespace"
        raise ConfigError([Problem(key="training.launcher.namespace", value="null", rule=rule)])
    if not access.verify_tls and settings.host.startswith("https://"):
        _skip_verification(settings, say)
    settings.proxy = settings.proxy or proxy_of(settings.host)  # a kubeconfig may name its own
    return Cluster(client.ApiClient(settings), namespace)


def _skip_verification(settings: client.Configuration, say: Callable[[str], None]) -> None:
    import urllib3

    settings.verify_ssl = False
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # our own warning says it once
    say(f"  warning: training.launcher.verify_tls=false: whoever answers as {settings.host} gets the token")


def _own_namespace() -> str | None:
    file = _POD / "namespace"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
