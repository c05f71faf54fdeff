"""The API server: paths, tokens, rights, errors in Kubernetes' own words. What objects lead to is the controller's."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from tests.servers.kubernetes.contract import Contract, webhook
from tests.servers.kubernetes.controller import Controller, Faults, Job, free_port
from tests.servers.kubernetes.pods import JOBSET

DROP, LOSE = 0, -1
"""Faults: the connection breaks when the request has arrived; or when it was done, so that the answer is lost."""

GROUP = "trainer.kubeflow.org"
_TRAINJOBS = re.compile(rf"^/apis/{GROUP}/v1alpha1/namespaces/(?P<namespace>[^/]+)/trainjobs(?:/(?P<name>[^/]+))?$")
_CORE = re.compile(r"^/api/v1/namespaces/(?P<namespace>[^/]+)/(?P<plural>pods|events)(?:/(?P<name>[^/]+)/log)?$")
_JOBSETS = re.compile(r"^/apis/jobset\.x-k8s\.io/v1alpha2/namespaces/(?P<namespace>[^/]+)/jobsets/(?P<name>[^/]+)$")
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_VERBS = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}

Object = dict[str, Any]
Answer = tuple[int, Object | str]


class KubernetesServer(ThreadingHTTPServer):
    """A cluster for whoever has its token.

    Args:
        contracts: Folder with the CRD and the runtime.
        role: YAML of the Role that the token has; what it doesn't grant is forbidden.
        volumes: Claim -> folder.
        home: A folder for the pods.
        secrets: Secret -> key -> value.
        without: Fields of ``spec`` that this cluster's trainer does not have yet.
        certificate: Files of certificate and key, for TLS.

    Attributes:
        url: Where it is.
        token: That it takes now.
        used: (verb, resource) of every request that was let through.
        violations: What a client sent that it had no reason to send.
        rules: Of the Role that the token has.
    """

    daemon_threads = True
    namespace = "sft"

    def __init__(
        self,
        contracts: Path,
        role: Path,
        *,
        volumes: dict[str, Path],
        home: Path,
        secrets: dict[str, dict[str, str]] | None = None,
        without: frozenset[str] = frozenset(),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}"
        self.token = "canary-cluster-token"
        self.used: set[tuple[str, str]] = set()
        self.violations: list[str] = []
        self.created: list[Object] = []
        self.controller = Controller(volumes, secrets or {}, home)
        self._contract = Contract(contracts / "trainjobs.crd.yaml", without)
        runtime = yaml.safe_load((contracts / "torch-distributed.runtime.yaml").read_text(encoding="utf-8"))
        self._runtimes = {runtime["metadata"]["name"]: runtime}
        roles = yaml.safe_load_all(role.read_text(encoding="utf-8"))
        self.rules: list[Object] = next(one["rules"] for one in roles if one["kind"] == "Role")
        self._faults: dict[tuple[str, str], deque[int]] = defaultdict(deque)

    def __enter__(self) -> KubernetesServer:
        self.controller.start()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.controller.close()
        self.shutdown()
        self.server_close()

    @property
    def faults(self) -> Faults:
        return self.controller.faults

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {"KUBERNETES_SERVER_URL": self.url, "KUBERNETES_AUTH_TOKEN": self.token}

    def fail(self, verb: str, resource: str, *faults: int) -> None:
        """The next requests of that kind get these statuses, or `DROP`."""
        self._faults[verb, resource].extend(faults)

    def jobs(self) -> dict[str, Job]:
        """The jobs that there are."""
        with self.controller.lock:
            return dict(self.controller.jobs)

    def answer(self, method: str, path: str, query: dict[str, str], token: str, body: Object | None) -> Answer:
        """What a request gets."""
        where = _TRAINJOBS.match(path) or _CORE.match(path) or _JOBSETS.match(path)
        if token != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        if path == _REVIEWS:  # every user may ask
            return self._review(body or {})
        if where is None:
            return _status(404, "NotFound", "the server could not find the requested resource")
        found = where.groupdict()
        plural, name = found.get("plural") or path.split("/namespaces/")[1].split("/")[1], found["name"]
        resource = "pods/log" if plural == "pods" and name else plural
        verb = _VERBS.get(method) or ("get" if name else "list")
        fault = self._faults[verb, resource].popleft() if self._faults[verb, resource] else None
        if fault is not None and fault != LOSE:
            return _status(fault, "InternalError", "etcdserver: request timed out")
        group = {"trainjobs": GROUP, "jobsets": "jobset.x-k8s.io"}.get(plural, "")
        if found["namespace"] != self.namespace or not self._grants(group, resource, verb):
            what = f'User "sft" cannot {verb} resource "{resource}" in API group "{group}"'
            where_to = f'in the namespace "{found["namespace"]}"'
            whole = f"{resource}.{group}" if group else resource
            return _status(403, "Forbidden", f"{whole} is forbidden: {what} {where_to}")
        self.used.add((verb, resource))
        given = self._do(verb, resource, name, query, body or {})
        return (DROP, "") if fault == LOSE else given

    def _do(self, verb: str, resource: str, name: str, query: dict[str, str], body: Object) -> Answer:
        with self.controller.lock:
            match verb, resource:
                case "list", "trainjobs":
                    return _list("TrainJobList", [j.object for j in self.controller.jobs.values()], query)
                case "create", "trainjobs":
                    return self._create(body, query)
                case "delete", "trainjobs":
                    return self._delete(name, query)
                case "get", "jobsets":
                    if name in self.controller.jobs or name in self.controller.orphans:
                        return 200, {"kind": "JobSet", "metadata": {"name": name}}
                    return _status(404, "NotFound", f'jobsets.jobset.x-k8s.io "{name}" not found')
                case "list", "pods":
                    return _list("PodList", [pod.object for pod in self.controller.pods()], query)
                case "list", "events":
                    return _list("EventList", self.controller.events, {})
                case "get", "pods/log":
                    return self._log(name, query)
        self.violations.append(f"{verb} {resource}")
        return _status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _grants(self, group: str, resource: str, verb: str) -> bool:
        return any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in self.rules
        )

    def _create(self, job: Object, query: dict[str, str]) -> Answer:
        if unknown := self._contract.unknown_fields(job):
            if query.get("fieldValidation") != "Strict":
                self.violations.append(f"would have been dropped in silence: {unknown}")
            lead = 'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: '
            return _status(400, "BadRequest", lead + ", ".join(f'unknown field "{field}"' for field in unknown))
        name = job["metadata"].get("name", "")
        if errors := self._contract.errors(job):
            return _status(422, "Invalid", f'TrainJob.{GROUP} "{name}" is invalid: {"; ".join(errors)}')
        if refused := webhook(job, self._runtimes):
            lead = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: '
            return _status(403, "Forbidden", lead + "; ".join(refused))
        if job["metadata"].get("namespace", self.namespace) != self.namespace:
            return _status(400, "BadRequest", "the namespace of the provided object does not match the request's")
        if name in self.controller.jobs:  # of a dry run, too
            return _status(409, "AlreadyExists", f'trainjobs.{GROUP} "{name}" already exists')
        made = {**job, "metadata": {**job["metadata"], "namespace": self.namespace, "creationTimestamp": _now()}}
        if "dryRun" not in query:
            self.created.append(job)
            self.controller.jobs[name] = Job(made, free_port())
        return 201, made

    def _delete(self, name: str, query: dict[str, str]) -> Answer:
        if name not in self.controller.jobs:
            return _status(404, "NotFound", f'trainjobs.{GROUP} "{name}" not found')
        job = self.controller.jobs[name].object
        self.controller.delete(name, in_foreground=query.get("propagationPolicy") == "Foreground")
        return 200, job

    def _review(self, review: Object) -> Answer:
        asked = review["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (asked["resource"], asked.get("subresource")) if part)
        is_here = asked["namespace"] == self.namespace
        allowed = is_here and self._grants(asked["group"], resource, asked["verb"])
        return 201, {**review, "status": {"allowed": allowed}}

    def _log(self, name: str, query: dict[str, str]) -> Answer:
        pod = next((pod for pod in self.controller.pods() if pod.name == name), None)
        if pod is None:
            return _status(404, "NotFound", f'pods "{name}" not found')
        if pod.node in self.faults.silent_kubelets:
            address = f"https://10.0.0.7:10250/containerLogs/{self.namespace}/{name}/node?timestamps=true"
            return _status(500, "InternalError", f'Get "{address}": dial tcp 10.0.0.7:10250: i/o timeout')
        seconds, tail = query.get("sinceSeconds"), query.get("tailLines")
        since = datetime.now(UTC) - timedelta(seconds=int(seconds)) if seconds else None
        text = pod.log(previous=query.get("previous") == "true", since=since, tail=int(tail) if tail else None)
        if text is None:
            what = f'container "node" in pod "{name}" is waiting to start: ContainerCreating'
            return _status(400, "BadRequest", what)
        return 200, text


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(kind: str, objects: list[Object], query: dict[str, str]) -> Answer:
    wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
    chosen = [o for o in objects if not wanted or wanted.items() <= o["metadata"].get("labels", {}).items()]
    return 200, {"kind": kind, "apiVersion": "v1", "metadata": {}, "items": chosen}


def _status(code: int, reason: str, message: str) -> Answer:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return code, {**body, "code": code}


class _Handler(BaseHTTPRequestHandler):
    server: KubernetesServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        url, size = urlsplit(self.path), int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        query, token = dict(parse_qsl(url.query)), self.headers.get("authorization", "")
        status, content = self.server.answer(self.command, unquote(url.path), query, token, body)
        if status == DROP:
            self.close_connection = True
            self.connection.close()
            return
        is_text = isinstance(content, str)
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if is_text else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _serve


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Waits for something that the cluster is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


__all__ = ["DROP", "JOBSET", "LOSE", "KubernetesServer", "wait_until"]
