"""The API server, as far as a TrainJob needs it. Every exception of the Kubernetes client ends here.

Verbs on purpose few, as ``deploy/base/rbac.yaml`` grants them: create, list and delete TrainJobs, list pods and events,
get a pod's log. Nothing that needs a right on the whole cluster: what it lacks, it says when a job is created.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sft.adapters.kubeflow.manifest import CONTAINER, GROUP, JOBSET_LABEL, KEY_LABEL, PLURAL, VERSION
from sft.errors import ConfigError, Problem, StageError

if TYPE_CHECKING:
    from kubernetes import client

SERVER, TOKEN = "KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"
"""Environment variables of the secret ``kubernetes-credentials``; both or none."""

_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = (5, 30)
_TRAINER = "Kubeflow Trainer 2.2 or later"
_UNKNOWN_FIELD = re.compile(r'unknown field \\?"(?P<field>spec\.[\w.\[\]]+)')


class Unreachable(StageError):
    """The API server does not answer, or fails: it may the next time."""


class TokenRefused(StageError):
    """The API server does not know the token, or no longer."""


class Conflict(StageError):
    """There is an object of that name."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the API server is reached.

    Attributes:
        namespace: None = that of the context, or of the pod.
        verify_tls: Whether its certificate must be trusted.
        ca: PEM of who signed that; None = the pod's own, or the system's.
    """

    namespace: str | None
    verify_tls: bool
    ca: str | None


class Cluster:
    """A namespace of a cluster.

    Attributes:
        url: Of the API server.
        namespace: Where jobs are.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        from kubernetes import client

        self.url, self.namespace = api.configuration.host, namespace
        self._api, self._jobs = api, client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._path = (GROUP, VERSION, namespace, PLURAL)

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> None:
        """Makes a TrainJob; with `dry_run` the server only says whether it would.

        Raises:
            Conflict: There is one of that name.
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        with self._translated("create", PLURAL):
            self._jobs.create_namespaced_custom_object(
                *self._path,
                dict(manifest),
                dry_run="All" if dry_run else None,
                field_validation="Strict",  # else an older Trainer drops the fields that it does not know
                _request_timeout=_TIMEOUT_SECONDS,
            )

    def find(self, key: str) -> dict[str, Any] | None:
        """The TrainJob that makes what has this key; the newest, should someone have made more.

        Raises:
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        with self._translated("list", PLURAL):
            found = self._jobs.list_namespaced_custom_object(
                *self._path, label_selector=f"{KEY_LABEL}={key}", _request_timeout=_TIMEOUT_SECONDS
            )
        jobs: list[dict[str, Any]] = found["items"]
        return max(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]), default=None)

    def delete(self, name: str) -> None:
        """Ends a TrainJob with its pods, which are told to stop first; nothing where it is gone.

        Raises:
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        with self._translated("delete", PLURAL, absent_is_fine=True):
            self._jobs.delete_namespaced_custom_object(
                *self._path, name, propagation_policy="Foreground", _request_timeout=_TIMEOUT_SECONDS
            )

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a TrainJob.

        Raises:
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        return self._list("pods", labelSelector=f"{JOBSET_LABEL}={name}")

    def events(self) -> list[dict[str, Any]]:
        """What was not normal in the namespace of late.

        Raises:
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        return self._list("events", fieldSelector="type=Warning")

    def log(self, pod: str, *, since_seconds: int | None = None, previous: bool = False) -> list[str]:
        """Lines that a pod has printed, each after its time; none where its container is not there.

        Args:
            pod: Its name.
            since_seconds: Only the lines of the last so many seconds; None = all.
            previous: Of the container before the last restart.

        Raises:
            Unreachable: It may go well the next time.
            StageError: It was refused.
        """
        with self._translated("get", "pods/log", absent_is_fine=True):
            asked: dict[str, Any] = {"since_seconds": since_seconds} if since_seconds else {"tail_lines": 200}
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=CONTAINER,
                timestamps=True,
                previous=previous,
                _preload_content=False,  # else the client fails at a line that is no UTF-8
                _request_timeout=_TIMEOUT_SECONDS,
                **asked,
            )
            text: str = answer.data.decode("utf-8", errors="replace")
            return text.splitlines()
        return []  # type: ignore[unreachable]  # what is absent has said nothing

    def _list(self, plural: str, **query: str) -> list[dict[str, Any]]:
        """Objects as JSON: the client's own classes refuse some that servers send."""
        with self._translated("list", plural):
            path = f"/api/v1/namespaces/{self.namespace}/{plural}"
            found, _, _ = self._api.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                response_type="object",
                auth_settings=["BearerToken"],
                _request_timeout=_TIMEOUT_SECONDS,
            )
        items: list[dict[str, Any]] = found["items"]
        return items

    @contextlib.contextmanager
    def _translated(self, verb: str, resource: str, *, absent_is_fine: bool = False) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            # 400 of a log: the container has not begun.
            if absent_is_fine and (error.status == 404 or (resource == "pods/log" and error.status == 400)):
                return
            raise self._refusal(error, verb, resource) from error
        except (HTTPError, OSError) as error:
            raise Unreachable(f"the API server {self.url} can't be reached: {error}") from error

    def _refusal(self, error: Any, verb: str, resource: str) -> StageError:
        status, said = error.status, _message(error)
        if status == 0:  # the client's word for TLS
            fix = "training.launcher.ca=FILE, or training.launcher.verify_tls=false if that is meant"
            return StageError(f"the API server {self.url} shows a certificate that is not trusted: {said}", fix=fix)
        if status == 429 or status >= 500:
            return Unreachable(f"the API server {self.url} answered HTTP {status}: {said}")
        if status == 401:
            fix = f"a new token in {TOKEN} (or in the kubeconfig), then the same command"
            return TokenRefused(f"the API server {self.url} refuses the token (HTTP 401); it may have expired", fix=fix)
        if status == 403:
            fix = "deploy/base/rbac.yaml has the rights that a TrainJob needs"
            return StageError(f"not allowed to {verb} {resource} in namespace {self.namespace}: {said}", fix=fix)
        if status == 404:
            fix = f"{_TRAINER} on the cluster, and training.launcher.namespace"
            return StageError(f"no {resource} in namespace {self.namespace} of {self.url}: {said}", fix=fix)
        if status == 409:
            return Conflict(said)
        if unknown := _UNKNOWN_FIELD.search(said):
            message = f"the cluster's TrainJob has no {unknown['field']}: its Kubeflow Trainer is too old"
            return StageError(message, fix=_TRAINER)
        return StageError(f"the cluster refuses the TrainJob (HTTP {status}): {said}")


def connect(access: Access, say: Callable[[str], None]) -> Cluster:
    """The cluster that the environment names, else the kubeconfig, else the one that this process runs in.

    Raises:
        ConfigError: None of them does, or the environment says half of it.
        StageError: The client is not installed, or the kubeconfig can't be used.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise StageError(
            f"training.launcher.kind=kubeflow: {error}", fix="pip install 'sft-runner[kubeflow]'"
        ) from error
    settings = client.Configuration()
    settings.retries = False  # who calls decides, and says so
    server, token = os.environ.get(SERVER, "").strip(), os.environ.get(TOKEN, "").strip()
    files = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())  # the client reads it on import
    file = Path(files.partition(os.pathsep)[0])
    namespace = access.namespace
    if server or token:
        if not (server and token):
            rule = "is needed too: both or none"
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
            raise StageError(f"{file}: {error}", fix=f"another KUBECONFIG, or {SERVER} and {TOKEN}") from error
        namespace = namespace or context.get("namespace")
    elif (_POD / "token").is_file():
        config.load_incluster_config(client_configuration=settings)
    else:
        rule = f"no cluster is named: neither by {SERVER} and {TOKEN}, nor by a kubeconfig ({file}), nor is this a pod"
        raise ConfigError([Problem(key="training.launcher.kind", value="kubeflow", rule=rule)])
    namespace = namespace or _own_namespace()
    if namespace is None:
        rule = "must be said where neither a kubeconfig's context nor a pod does"
        raise ConfigError([Problem(key="training.launcher.namespace", value="null", rule=rule)])
    if not access.verify_tls and settings.host.startswith("https://"):
        _without_verifying(settings, say)
    settings.proxy = settings.proxy or _proxy(settings.host)  # a kubeconfig may name its own
    return Cluster(client.ApiClient(settings), namespace)


def _without_verifying(settings: client.Configuration, say: Callable[[str], None]) -> None:
    import urllib3

    settings.verify_ssl = False
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # ours says it once and in full
    say(f"  warning: training.launcher.verify_tls=false: whoever answers as {settings.host} gets the token")


def _own_namespace() -> str | None:
    file = _POD / "namespace"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _proxy(host: str) -> str | None:
    """The environment's proxy for an address, which the client does not look for."""
    address = urlsplit(host)
    return None if proxy_bypass(address.netloc) else getproxies().get(address.scheme)


def _message(error: Any) -> str:
    """What the server says, without its headers."""
    try:
        body = error.body.decode("utf-8", errors="replace") if isinstance(error.body, bytes) else error.body
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason).strip()
