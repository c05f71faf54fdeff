"""Arguments of `sft export`. What it does is `sft.cli.export`, imported only when it is asked for."""

from __future__ import annotations

import argparse

_ACCESS_MODES = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each system: all print YAML, or write it with ``--output``."""
    systems = parser.add_subparsers(dest="system", required=True, metavar="SYSTEM")
    text = "the TrainJob that a run would make (training/launcher=kubeflow), printed as YAML"
    trainjob = systems.add_parser("trainjob", help=text, description=f"{text}.")
    text = "a recipe as a Kubernetes Job, under a name of its own, printed as YAML"
    job = systems.add_parser("job", help=text, description=f"{text}.", argument_default=argparse.SUPPRESS)
    job.add_argument("--image", help="with sft in it, of a TrainJob too (default: training.launcher.image)")
    job.add_argument("--claim", help="of the volume with the run root (default: training.launcher.pvc)")
    job.add_argument("--service-account", metavar="NAME", help="of its pod (default: sft)")
    job.add_argument("--gpus", type=int, metavar="N", help="default: 1; none where a TrainJob trains")
    job.add_argument("--cpu", help="asked for (default: 4)")
    job.add_argument("--memory", metavar="SIZE", help="asked for (default: 16Gi)")
    job.add_argument("--memory-limit", metavar="SIZE", help="default: 64Gi")
    text = "group that gets the volume (default: 1001); 0 = none, as on OpenShift"
    job.add_argument("--fs-group", type=int, metavar="ID", help=text)
    text = "a pipeline for Kubeflow Pipelines, with the recipe's values as defaults, printed as YAML"
    kfp = systems.add_parser("kfp", help=text, description=f"{text}.", argument_default=argparse.SUPPRESS)
    for each in (trainjob, job, kfp):
        each.add_argument("--output", metavar="FILE", default=None, help="write there instead of printing")
        each.add_argument("recipe", metavar="RECIPE", help="a name from `sft recipes`, or a YAML's path")
    for each in (trainjob, job):
        each.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help="as of `sft run`")
    kfp.add_argument("--image", help="image with sft in it")
    kfp.add_argument("--workspace-size", metavar="SIZE", help="of the tasks' volume, as in 50Gi")
    text = "of that volume, once for each (default: ReadWriteMany)"
    kfp.add_argument("--access-mode", dest="access_modes", choices=_ACCESS_MODES, action="append", help=text)
    kfp.add_argument("--storage-class", metavar="CLASS", help="of that volume (default: the cluster's)")
    kfp.add_argument("--gpus", type=int, metavar="N", help="of a task that trains or scores (default: 1)")
    text = "of every task, or of one; once for each"
    kfp.add_argument("--cpu", metavar="[TASK=]CORES", action="append", help=f"asked for {text}")
    kfp.add_argument("--memory", metavar="[TASK=]SIZE", action="append", help=f"asked for {text}")
    kfp.add_argument("--memory-limit", metavar="[TASK=]SIZE", action="append", help=f"most memory {text}")
    text = f"most time {text} (default: none)"
    kfp.add_argument("--timeout", dest="timeout_seconds", metavar="[TASK=]SECONDS", action="append", help=text)
    kfp.add_argument("--retries", type=int, metavar="N", help="how often a task is tried again (default: 2)")
    text = "nodes of the tasks that train or score, once for each label"
    kfp.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", help=text)
    text = "taint of nodes that the same tasks may use, once for each"
    kfp.add_argument("--toleration", dest="tolerations", metavar="KEY[=VALUE][:EFFECT]", action="append", help=text)
    text = "secret with which the image is pulled, once for each"
    kfp.add_argument("--image-pull-secret", dest="pull_secrets", metavar="NAME", action="append", help=text)
    text = "of every task's pod, once for each"
    kfp.add_argument("--label", dest="labels", metavar="LABEL=VALUE", action="append", help=text)
    kfp.add_argument("--caching", action="store_true", help="let KFP skip a task whose inputs it knows")
    for secret in ("minio", "s3", "hf", "oci", "kubernetes"):
        kfp.add_argument(f"--{secret}-secret", metavar="NAME", help="name of that secret")
