"""Owns the requests to the API server that a TrainJob needs. Every exception of the Kubernetes client ends here.

It uses few verbs, which ``deploy/base/rbac.yaml`` grants: create, list and delete TrainJobs, list pods and events, get
a pod's log and a JobSet. None of them needs a permission on the whole cluster. What only serves people may be missing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sft.adapters.kubeflow.manifest import (
    CONTAINER,
    GROUP,
    JOBSET_LABEL,
    KEY_LABEL,
    PLACE_LABEL,
    PLURAL,
    VERSION,
)
from sft.adapters.retry import retry_after_seconds as asked_seconds
from sft.errors import StageError

if TYPE_CHECKING:
    from kubernetes import client

SERVER, TOKEN = "KUBERNETES_SERVER_URL", "KUBERNETES_AUTH_TOKEN"
"""Environment variables of the secret ``kubernetes-credentials``; both or none."""

_TIMEOUT_SECONDS = (5, 30)
_TRAINER = "Kubeflow Trainer 2.2 or later"
_JOBSETS = ("jobset.x-k8s.io", "v1alpha2")
_NO_RIGHT = re.compile(r'User "[^"]*" cannot \w+ (resource|path) ')
"""How every authorizer refuses. Admission refuses changes by HTTP 403, too, in other words (of a webhook, a policy, a
quota, a namespace that is about to go), and no right mends that."""
_UNKNOWN_FIELD = re.compile(r'unknown field \\?"(?P<field>spec\.[\w.\[\]]+)')

Right = tuple[str, str, str]
"""Verb, resource and API group."""

_RIGHTS: dict[Right, bool] = {
    ("create", PLURAL, GROUP): True,
    ("list", PLURAL, GROUP): True,
    ("delete", PLURAL, GROUP): True,
    ("list", "pods", ""): True,
    ("get", "jobsets", _JOBSETS[0]): False,
    ("list", "events", ""): False,
    ("get", "pods/log", ""): False,
}
"""What a training asks for, and whether it can't do without."""


class Unreachable(StageError):
    """The API server does not answer, or fails: the next request may succeed.

    Attributes:
        retry_after_seconds: Pause that it asked for.
    """

    retry_after_seconds = 0.0


class TokenRefused(StageError):
    """The API server does not accept the token, or no longer."""


class NotAllowed(StageError):
    """The token lacks a right."""


class Conflict(StageError):
    """There already is an object of that name."""


class Cluster:
    """A namespace of a cluster.

    Attributes:
        url: Address of the API server.
        namespace: Namespace of the jobs.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        from kubernetes import client

        self.url, self.namespace = api.configuration.host, namespace
        self._api, self._jobs = api, client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._path = (GROUP, VERSION, namespace, PLURAL)

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> None:
        """Create a TrainJob; with `dry_run` the server only checks whether it would.

        Raises:
            Conflict: There already is one of that name.
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        with self._translating_errors("create", PLURAL):
            self._jobs.create_namespaced_custom_object(
                *self._path,
                dict(manifest),
                dry_run="All" if dry_run else None,
                field_validation="Strict",  # an older Trainer would drop the fields that it does not know
                _request_timeout=_TIMEOUT_SECONDS,
            )

    def find(self, key: str, place: str) -> dict[str, Any] | None:
        """Return the TrainJob whose result has this key in this place, the newest if there are several; None if none.

        Raises:
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        with self._translating_errors("list", PLURAL):
            answer = self._jobs.list_namespaced_custom_object(
                *self._path,
                label_selector=f"{KEY_LABEL}={key},{PLACE_LABEL}={place}",
                _request_timeout=_TIMEOUT_SECONDS,
            )
        jobs: list[dict[str, Any]] = answer["items"]
        return max(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]), default=None)

    def delete(self, name: str) -> None:
        """Delete a TrainJob, and with it what it owns, whose pods are asked to stop; do nothing if it is gone.

        In the background: Kubeflow Trainer 2.3 makes the pods anew of a job that is deleted after them.

        Raises:
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        with self._translating_errors("delete", PLURAL, absent_is_fine=True):
            self._jobs.delete_namespaced_custom_object(
                *self._path, name, propagation_policy="Background", _request_timeout=_TIMEOUT_SECONDS
            )

    def has_jobset(self, name: str) -> bool:
        """Return whether the JobSet of a TrainJob is there still, which would make its pods anew.

        Raises:
            NotAllowed: The token may not ask.
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        with self._translating_errors("get", "jobsets", absent_is_fine=True):
            self._jobs.get_namespaced_custom_object(
                *_JOBSETS, self.namespace, "jobsets", name, _request_timeout=_TIMEOUT_SECONDS
            )
            return True
        return False  # type: ignore[unreachable]  # it is absent

    def missing_rights(self) -> list[tuple[Right, bool]] | None:
        """Return the rights that the token lacks, each with whether a training needs it; None if that can't be asked.

        Raises:
            Unreachable: The next request may succeed.
            TokenRefused: The token is not accepted.
        """
        missing = []
        try:
            for right, is_needed in _RIGHTS.items():
                if not self._may(right):
                    missing.append((right, is_needed))
        except (Unreachable, TokenRefused):
            raise
        except StageError:  # the server reviews no access: the dry run says what it can
            return None
        return missing

    def _may(self, right: Right) -> bool:
        verb, resource, group = right
        plain, _, part = resource.partition("/")
        what = {"namespace": self.namespace, "verb": verb, "group": group, "resource": plain, "subresource": part}
        with self._translating_errors("create", "selfsubjectaccessreviews"):
            answer, _, _ = self._api.call_api(
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                "POST",
                body={
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": what},
                },
                response_type="object",
                auth_settings=["BearerToken"],
                _request_timeout=_TIMEOUT_SECONDS,
            )
        return bool(answer.get("status", {}).get("allowed"))

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return the pods of a TrainJob.

        Raises:
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        return self._list("pods", labelSelector=f"{JOBSET_LABEL}={name}")

    def events(self) -> list[dict[str, Any]]:
        """Return the recent warnings of the namespace.

        Raises:
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        return self._list("events", fieldSelector="type=Warning")

    def log(self, pod: str, *, since_seconds: int | None = None, previous: bool = False) -> list[str]:
        """Return the lines that a pod has printed, each after its time; none if its container is not there.

        Args:
            pod: Name of the pod.
            since_seconds: Age of the oldest line that is returned; None = the last 200 lines.
            previous: Whether to read the log of the container before the last restart.

        Raises:
            Unreachable: The next request may succeed.
            StageError: It was refused.
        """
        with self._translating_errors("get", "pods/log", absent_is_fine=True):
            limit: dict[str, Any] = {"since_seconds": since_seconds} if since_seconds else {"tail_lines": 200}
            answer = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=CONTAINER,
                timestamps=True,
                previous=previous,
                _preload_content=False,  # the client would fail on a line that is not UTF-8
                _request_timeout=_TIMEOUT_SECONDS,
                **limit,
            )
            text: str = answer.data.decode("utf-8", errors="replace")
            return text.splitlines()
        return []  # type: ignore[unreachable]  # a container that is absent has printed nothing

    def _list(self, plural: str, **query: str) -> list[dict[str, Any]]:
        """Return objects as JSON, because the client's own classes refuse some that servers send."""
        with self._translating_errors("list", plural):
            path = f"/api/v1/namespaces/{self.namespace}/{plural}"
            answer, _, _ = self._api.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                response_type="object",
                auth_settings=["BearerToken"],
                _request_timeout=_TIMEOUT_SECONDS,
            )
        items: list[dict[str, Any]] = answer["items"]
        return items

    @contextlib.contextmanager
    def _translating_errors(self, verb: str, resource: str, *, absent_is_fine: bool = False) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            # 400 for a log: the container has not started.
            if absent_is_fine and (error.status == 404 or (resource == "pods/log" and error.status == 400)):
                return
            raise self._refusal(error, verb, resource) from error
        except (HTTPError, OSError) as error:
            raise Unreachable(f"the API server {self.url} can't be reached: {error}") from error

    def _refusal(self, error: Any, verb: str, resource: str) -> StageError:
        status, message = error.status, _message(error)
        if status == 0:  # how the client reports an error of TLS
            fix = "set training.launcher.ca=FILE, or training.launcher.verify_tls=false if that is intended"
            return StageError(f"the API server {self.url} has a certificate that is not trusted: {message}", fix=fix)
        if status == 429 or status >= 500:
            failure = Unreachable(f"the API server {self.url} answered HTTP {status}: {message}")
            failure.retry_after_seconds = asked_seconds((error.headers or {}).get("Retry-After", ""))
            return failure
        if status == 401:
            fix = f"put a new token into {TOKEN} or the kubeconfig, then repeat the command"
            return TokenRefused(f"the API server {self.url} refuses the token (HTTP 401); it may have expired", fix=fix)
        if status == 403 and verb in {"create", "delete"} and not _NO_RIGHT.search(message):
            return StageError(f"the cluster refuses the TrainJob (HTTP 403): {message}")
        if status == 403:
            message = f"not allowed to {verb} {resource} in namespace {self.namespace}: {message}"
            return NotAllowed(message, fix="grant the permissions of deploy/base/rbac.yaml")
        if status == 404:
            fix = f"install {_TRAINER} on the cluster, and check training.launcher.namespace"
            return StageError(f"no {resource} in namespace {self.namespace} of {self.url}: {message}", fix=fix)
        if status == 409:
            return Conflict(message)
        if unknown := _UNKNOWN_FIELD.search(message):
            rule = f"the cluster's TrainJob has no {unknown['field']}: its Kubeflow Trainer is too old"
            return StageError(rule, fix=f"install {_TRAINER}")
        return StageError(f"the cluster refuses the TrainJob (HTTP {status}): {message}")


def _message(error: Any) -> str:
    """Return the server's message without its headers."""
    try:
        body = error.body.decode("utf-8", errors="replace") if isinstance(error.body, bytes) else error.body
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason).strip()
