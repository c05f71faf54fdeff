"""Arguments of `sft export`. What it does is `sft.cli.export`, imported only when it is asked for."""

from __future__ import annotations

import argparse

_ACCESS_MODES = ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_FORMATS = ("gguf", "ollama", "fp8", "int8", "int4", "kserve")
_SYSTEMS = ("model", "trainjob", "job", "kfp")


def with_system(arguments: list[str]) -> list[str]:
    """Return ``sft export RUN --to FORMAT`` as ``sft export model RUN --to FORMAT``; anything else stays.

    Args:
        arguments: Of ``sft``.
    """
    place = next((i for i, text in enumerate(arguments) if not text.startswith("-")), 0)  # of the command
    if arguments[place : place + 1] != ["export"] or (arguments[place + 1 :] or [""])[0] in _SYSTEMS:
        return arguments
    names_format = any(text == "--to" or text.startswith("--to=") for text in arguments)
    return [*arguments[: place + 1], "model", *arguments[place + 1 :]] if names_format else arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for models, and one for each system, which print YAML or write it with ``--output``."""
    systems = parser.add_subparsers(dest="system", required=True, metavar="SYSTEM")
    _add_model(systems)
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
    text = "group that gets the volume (default: training.launcher.fs_group, else 1001); 0 = none, as on OpenShift"
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
    for secret in ("minio", "s3", "hf", "oci", "registry", "kubernetes"):
        kfp.add_argument(f"--{secret}-secret", metavar="NAME", help="name of that secret")


def _add_model(systems: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "a finished run's model in another format, scored by the run's gates; as `sft export RUN --to FORMAT`"
    model = systems.add_parser("model", help=text, description=f"{text}.")
    model.add_argument("run", metavar="RUN", help="the run's folder")
    model.add_argument("--to", dest="format", required=True, choices=_FORMATS, help="the format")
    model.add_argument("--output", metavar="DIR", required=True, help="folder to make; nothing is overwritten")
    text = "of a GGUF file's numbers: auto (as the weights are saved; the default), f32, f16, bf16, q8_0; q4_k_m …"
    model.add_argument("--type", dest="kind", metavar="TYPE", default="auto", help=text)
    text = "llama.cpp's program, which makes q4_k_m and the like (default: the one in PATH)"
    model.add_argument("--llama-quantize", metavar="PATH", help=text)
    text = "of --to int4: interpreter of an environment with llm-compressor"
    model.add_argument("--python", metavar="PATH", help=text)
    text = "of --to int4: training samples that rounding is fitted to (default: 128)"
    model.add_argument("--calibration-samples", type=int, metavar="N", help=text)
    model.add_argument("--keep", action="store_true", help="keep an export that misses a gate, marked as failed")
    server = model.add_argument_group("of a server (--to kserve)", argument_default=argparse.SUPPRESS)
    server.add_argument("--namespace", help="of the InferenceService")
    server.add_argument(
        "--runtime", metavar="NAME", help="default: vllm-cuda-runtime; without GPUs vllm-cpu-x86-runtime"
    )
    server.add_argument("--secret", metavar="NAME", help="with the storage's login; a service account is made with it")
    server.add_argument("--service-account", metavar="NAME", help="one that has the login, in place of --secret")
    server.add_argument("--storage-key", metavar="NAME", help="an Open Data Hub data connection, in place of both")
    server.add_argument("--gpus", type=int, metavar="N", help="default: 1")
    server.add_argument("--cpu", help="asked for (default: 4)")
    server.add_argument("--memory", metavar="SIZE", help="default: 16Gi")
    what = "ways out that the run used, again: model.trust_remote_code=true"
    model.add_argument("overrides", nargs="*", default=[], metavar="OVERRIDE", help=what)
