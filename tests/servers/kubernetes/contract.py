"""What the API server refuses: the TrainJob's CRD as it is published, and the rules of the trainer's webhook.

The rules stand in no schema; they are those of kubeflow/trainer's ``pkg/runtime/framework/plugins/{jobset,torch}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Object = dict[str, Any]

_RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
_WITHOUT_ENV = {"node", "dataset-initializer", "model-initializer"}
_DOMAIN_PATH = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/._~%!$&'()*+,;=:-]+$")
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://.+$")

_RULES: dict[str, Callable[[Any], bool]] = {
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')": lambda me: (
        re.search("^[a-z]([-a-z0-9]*[a-z0-9])?$", me["metadata"]["name"]) is not None
    ),
    "size(self.metadata.name) <= 63": lambda me: len(me["metadata"]["name"]) <= 63,
    "self >= 1": lambda me: bool(me >= 1),
    "self == '' || self.matches('^[A-Za-z][A-Za-z0-9+.-]*://.+$')": lambda me: me == "" or bool(_URI.match(me)),
    "self in ['trainer.kubeflow.org/trainjob-controller', 'kueue.x-k8s.io/multikueue']": lambda me: (
        me in {"trainer.kubeflow.org/trainjob-controller", "kueue.x-k8s.io/multikueue"}
    ),
    "has(self.lastUpdatedTime)": lambda me: "lastUpdatedTime" in me,
    "self == oldSelf": lambda _: True,  # of updates; the server takes none
}
"""Every CEL rule of the CRD, in Python: one that is not here fails the test that meets it."""


class Contract:
    """The CRD's schema.

    Args:
        crd: Its YAML.
        without: Fields of ``spec`` that this cluster's trainer does not have yet.
    """

    def __init__(self, crd: Path, without: frozenset[str] = frozenset()) -> None:
        [version] = yaml.safe_load(crd.read_text(encoding="utf-8"))["spec"]["versions"]
        self._schema: Object = version["schema"]["openAPIV3Schema"]
        self._schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        for name in without:
            del self._schema["properties"]["spec"]["properties"][name]
        self._validator = jsonschema.Draft202012Validator(_as_json_schema(self._schema))

    def unknown_fields(self, job: Object) -> list[str]:
        """Fields that the schema has not, each as ``spec.trainer.x``."""
        return list(_unknown(job, self._schema, ""))

    def errors(self, job: Object) -> list[str]:
        """What of the schema and its rules does not hold."""
        found = [f"{e.json_path.removeprefix('$.')}: {e.message[:200]}" for e in self._validator.iter_errors(job)]
        return found or list(_broken_rules(job, self._schema, "TrainJob"))


def _as_json_schema(node: Any) -> Any:
    """A CRD's schema as JSON Schema: what is an int or a string there is an ``anyOf`` here."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _as_json_schema(value) for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if node.get("x-kubernetes-int-or-string"):
        out.pop("anyOf", None)
        out["type"] = ["integer", "string"]
    return out


def _unknown(value: Any, schema: Object, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _unknown(item, schema.get("items", {}), f"{path}[{place}]")
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    properties, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name in properties:
            yield from _unknown(item, properties[name], where)
        elif isinstance(more, dict):
            yield from _unknown(item, more, where)
        elif not more:
            yield where


def _broken_rules(value: Any, schema: Object, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        if not _RULES[rule["rule"]](value):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _broken_rules(item, schema.get("items", {}), f"{path}[{place}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in schema.get("properties", {}):
                yield from _broken_rules(item, schema["properties"][name], f"{path}.{name}")


def webhook(job: Object, runtimes: dict[str, Object]) -> list[str]:
    """What the trainer's validating webhook refuses."""
    spec = job["spec"]
    runtime = runtimes.get(spec["runtimeRef"]["name"])
    if runtime is None:
        return ["spec.runtimeRef: specified ClusterTrainingRuntime must be created before the TrainJob"]
    found = []
    longest_pod = f"{job['metadata']['name']}-node-0-{spec.get('trainer', {}).get('numNodes', 1) - 1}-abcde"
    if len(longest_pod) > 63:  # JobSet's webhook, when the controller makes the JobSet
        found.append("JobSet name is too long, pod names generated for this JobSet will exceed 63 characters")
    if reserved := sorted({e["name"] for e in spec.get("trainer", {}).get("env", [])} & _RESERVED):
        found.append(f"spec.trainer.env: must not have reserved envs, invalid envs configured: {reserved}")
    jobs = {r["name"]: r["template"]["spec"]["template"]["spec"] for r in _replicated(runtime["spec"])}
    for patch in spec.get("runtimePatches", []):
        if not _DOMAIN_PATH.match(patch["manager"]):
            found.append("spec.runtimePatches.manager: must be a domain-prefixed path (such as acme.io/foo)")
        for replicated in _replicated(patch.get("trainingRuntimeSpec", {})):
            if replicated["name"] not in jobs:
                found.append("spec.runtimePatches: must not have replicated job that doesn't exist in the runtime")
                continue
            known = {container["name"] for container in jobs[replicated["name"]].get("containers", [])}
            for container in pod_patch(replicated).get("spec", {}).get("containers", []):
                if container["name"] not in known:
                    found.append("spec.runtimePatches: must not have container that doesn't exist in the runtime")
                elif container.get("env") and container["name"] in _WITHOUT_ENV:
                    found.append("spec.runtimePatches: must not have envs for the node container")
    return found


def _replicated(runtime_spec: Object) -> list[Object]:
    jobs: list[Object] = runtime_spec.get("template", {}).get("spec", {}).get("replicatedJobs", [])
    return jobs


def pod_patch(replicated: Object) -> Object:
    """The pod template that a patch of a replicated job holds."""
    template: Object = replicated.get("template", {}).get("spec", {}).get("template", {})
    return template


def node_patch(job: Object) -> Object:
    """What a job's patches say of the pods of ``node``, one after the other."""
    merged: Object = {"metadata": {}, "spec": {}}
    for patch in job["spec"].get("runtimePatches", []):
        for replicated in _replicated(patch.get("trainingRuntimeSpec", {})):
            if replicated["name"] == "node":
                found = pod_patch(replicated)
                merged = {part: {**merged[part], **found.get(part, {})} for part in merged}
    return merged
