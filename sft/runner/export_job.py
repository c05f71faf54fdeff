"""A recipe as one Kubernetes Job: as `deploy/base/job.yaml`, for one recipe and under a name of its own.

The name holds a digest of recipe, overrides and pod, so that another recipe is another Job: the pod of an existing one
can't be changed. The same again continues what was stopped, or does nothing.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sft.adapters.kubeflow.network_policy import network_policy
from sft.adapters.os.pod_secrets import pod_secrets
from sft.config.compose import Recipe, compose, find_recipe, recipes
from sft.config.k8s_quantity import is_quantity
from sft.config.kfp_parameters import hydra_text
from sft.config.schema import LauncherConfig, RunConfig
from sft.errors import ConfigError, Problem
from sft.runner.status import run_folder

VOLUME, RECIPES = "/workspace", "/etc/sft"
_IMAGE_USER = 1001
_LONGEST_NAME = 52
"""A Job's pods and labels carry its name with a suffix, in 63 characters."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What the cluster gives the run.

    Attributes:
        image: With sft in it; None = the recipe's `training.launcher.image`. A TrainJob of the run has the same.
        claim: Of the volume that holds the run root; None = `training.launcher.pvc`. A TrainJob has the same.
        service_account: Of the pod; in `deploy/` it has the rights that a TrainJob takes.
        gpus: 0 = none.
        cpu: Asked for, as in ``4``.
        memory: Asked for, as in ``16Gi``.
        memory_limit: The most that it gets.
        fs_group: Group that the volume is given to, of a TrainJob too; 0 = the cluster does it, as OpenShift; None =
            `training.launcher.fs_group`, else that of the image's user.
    """

    image: str | None = None
    claim: str | None = None
    service_account: str = "sft"
    gpus: int = 1
    cpu: str = "4"
    memory: str = "16Gi"
    memory_limit: str = "64Gi"
    fs_group: int | None = None


def export_job(recipe: Recipe, overrides: Sequence[str], pod: Pod) -> list[dict[str, Any]]:
    """Return the Job, after the ConfigMap with its recipe unless that is one of sft's own.

    Before a Job that trains in a TrainJob comes the network policy of that one's pods.

    Raises:
        ConfigError: The recipe is wrong, needs what its pod would not have, or keeps its run off the volume.
    """
    cfg = compose(recipe, overrides)
    if pod.fs_group is None:
        own = cfg.training.launcher.fs_group
        pod = replace(pod, fs_group=_IMAGE_USER if own is None else own)
    if cfg.training.launcher.is_remote:
        overrides = [*_for_trainjob(cfg.training.launcher, pod), *overrides]
        cfg = compose(recipe, overrides)
    pod = replace(pod, image=pod.image or cfg.training.launcher.image, claim=pod.claim or cfg.training.launcher.pvc)
    _check(cfg, pod)
    is_shipped = recipe.path in {shipped.path for shipped in recipes()}
    text = None if is_shipped else recipe.path.read_text(encoding="utf-8")
    if text is not None:
        check_alone(cfg, recipe, text, overrides)
    named = recipe.name if text is None else f"{RECIPES}/{recipe.path.name}"
    spec = job_spec(["run", named, *overrides], pod, needs_api=cfg.training.launcher.is_remote)
    if secrets := cfg.training.launcher.image_pull_secrets:
        spec["template"]["spec"]["imagePullSecrets"] = [{"name": secret} for secret in secrets]
    name = _name(cfg.name, [text, spec])
    namespace = {"namespace": cfg.training.launcher.namespace} if cfg.training.launcher.namespace else {}
    made: list[dict[str, Any]] = []
    if text is not None:
        config_map = {"name": name, **namespace, "labels": {"app.kubernetes.io/name": "sft"}}
        data = {recipe.path.name: text}
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": config_map, "immutable": True, "data": data})
        _mount(spec["template"]["spec"], "recipe", RECIPES, {"configMap": {"name": name}})
    if cfg.training.launcher.is_remote:
        made.append(network_policy(name, run_folder(cfg).name, cfg.training.launcher.namespace))
    return [*made, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **namespace}, "spec": spec}]


def job_spec(args: list[str], pod: Pod, *, needs_api: bool) -> dict[str, Any]:
    """Return the spec of a Job that runs ``sft`` with these arguments.

    Args:
        args: Of ``sft``.
        pod: What the cluster gives it.
        needs_api: Whether it trains in a TrainJob: then its pod has the API's token and no GPU.
    """
    limits = {"memory": pod.memory_limit}
    if pod.gpus and not needs_api:
        limits["nvidia.com/gpu"] = str(pod.gpus)
    container: dict[str, Any] = {
        "name": "sft",
        "image": pod.image,
        "args": args,
        "env": [
            {
                "name": found.variable,
                "valueFrom": {"secretKeyRef": {"name": found.secret, "key": found.key, "optional": True}},
            }
            for found in pod_secrets()
        ],
        "resources": {"requests": {"cpu": pod.cpu, "memory": pod.memory}, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [],
    }
    context: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if pod.fs_group:
        context["fsGroup"] = pod.fs_group
    spec: dict[str, Any] = {
        "serviceAccountName": pod.service_account,
        "automountServiceAccountToken": needs_api,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 600,  # time to save a full state once it is told to stop
        "securityContext": context,
        "containers": [container],
        "volumes": [],
    }
    _mount(spec, "workspace", VOLUME, {"persistentVolumeClaim": {"claimName": pod.claim}})
    _mount(spec, "shm", "/dev/shm", {"emptyDir": {"medium": "Memory"}})
    _mount(spec, "tmp", "/tmp", {"emptyDir": {}})
    return {
        "backoffLimit": 3,
        "podFailurePolicy": {
            "rules": [
                _on_exit("FailJob", [2, 3]),  # the configuration is wrong, the model misses a gate: again the same
                _on_exit("Ignore", [75]),  # stopped with its state saved: the next pod goes on
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"metadata": {"labels": {"app.kubernetes.io/name": "sft"}}, "spec": spec},
    }


def _for_trainjob(launcher: LauncherConfig, pod: Pod) -> list[str]:
    """Return what the run's pod and those of its TrainJob have in common, as overrides where the recipe differs."""
    common = {
        "image": pod.image or launcher.image,
        "pvc": pod.claim or launcher.pvc,
        "fs_group": pod.fs_group or None,
    }
    return [
        f"training.launcher.{name}={hydra_text(value)}"
        for name, value in common.items()
        if value != getattr(launcher, name)
    ]


def _on_exit(action: str, values: list[int]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": "sft", "operator": "In", "values": values}}


def _mount(spec: dict[str, Any], name: str, path: str, source: dict[str, Any]) -> None:
    read_only = {"readOnly": True} if "configMap" in source else {}
    spec["containers"][0]["volumeMounts"].append({"name": name, "mountPath": path, **read_only})
    spec["volumes"].append({"name": name, **source})


def _check(cfg: RunConfig, pod: Pod) -> None:
    """Refuse what a Job of one pod loses or waits for in vain, and what is no pod."""
    problems = [
        Problem(key=f"--{name.replace('_', '-')}", value=value, rule="is no amount", suggestion="try 4, 500m or 16Gi")
        for name in ("cpu", "memory", "memory_limit")
        if not is_quantity(value := getattr(pod, name))
    ]
    if pod.gpus < 0:
        problems.append(Problem(key="--gpus", value=str(pod.gpus), rule="must not be negative"))
    if not PurePosixPath(posixpath.normpath(cfg.run_root)).is_relative_to(VOLUME):
        rule = f"is not on the Job's volume, {VOLUME}: what is made would go with the pod"
        problems.append(Problem(key="run_root", value=cfg.run_root, rule=rule, suggestion=f"try {VOLUME}/runs"))
    launcher = cfg.training.launcher
    if launcher.num_workers > 1 and not launcher.is_remote:
        problems.append(
            Problem(
                key="training.launcher.num_workers",
                value=str(launcher.num_workers),
                rule="a Job is one machine, and would wait for the others",
                suggestion="try training/launcher=kubeflow",
            )
        )
    if problems:
        raise ConfigError(problems)


def check_alone(cfg: RunConfig, recipe: Recipe, text: str, overrides: Sequence[str]) -> None:
    """Refuse a recipe that is another, or none, without the files beside it: the pod has no other file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / recipe.path.name
        copy.write_text(text, encoding="utf-8")
        try:
            alone = compose(find_recipe(str(copy)), overrides)
        except ConfigError:
            alone = None
    if alone != cfg:
        rule = "needs files beside it (groups of its own, recipe_dir), which its pod would not have"
        suggestion = "put them into the image or on the volume, and name them by absolute paths"
        raise ConfigError([Problem(key=recipe.path.name, rule=rule, suggestion=suggestion)])


def _name(run: str, content: list[Any]) -> str:
    """Return a name that Kubernetes takes: of the run, and of all that the Job is made of."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower())[: _LONGEST_NAME - len("sft--") - len(digest)].strip("-")
    return "-".join(part for part in ("sft", plain, digest) if part)
