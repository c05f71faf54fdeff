"""Owns the NetworkPolicy of one run: its ranks reach each other, and no others reach them through it."""

from __future__ import annotations

from typing import Any

from sft.adapters.kubeflow.manifest import RUN_LABEL, label_value


def network_policy(name: str, run: str, namespace: str | None = None) -> dict[str, Any]:
    """Return the policy that lets the pods of a run's TrainJob reach each other, on any port.

    Policies only add up: it isolates a run where nothing else lets anybody in (``deploy/isolated``).

    Args:
        name: Of the policy.
        run: Id of the run.
        namespace: Where its pods are; None = wherever it is applied.
    """
    pods = {"podSelector": {"matchLabels": {RUN_LABEL: label_value(run)}}}
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {**pods, "policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]},
    }
