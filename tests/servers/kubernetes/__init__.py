"""A stand-in for a cluster with Kubeflow Trainer: its API server, and its controller with real processes as pods.

``contract`` holds objects to the published CRD and to the rules of the trainer's webhook; ``pods`` are the processes;
``controller`` does what Kubeflow Trainer, JobSet, the scheduler and the kubelet do; ``server`` speaks HTTP.
"""

from tests.servers.kubernetes.controller import Faults
from tests.servers.kubernetes.server import KubernetesServer

__all__ = ["Faults", "KubernetesServer"]
