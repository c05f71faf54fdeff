"""What a result depends on besides the configuration: sources, packages, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sft.planning.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a result depends on besides the configuration.

    Attributes:
        dataset_version: State of the source: file times, ETag, commit.
        held_out_versions: The same of each set of `eval.holdouts`, by its name.
        model_version: State of the base model: file times, commit.
        tasks_version: Digest of the recipe's own lm-eval tasks.
        vllm_version: Of the vLLM that answers them; empty without it.
        server_asked: Since when a run asks a server, of which nobody knows the model; empty where none is asked.
        device: ``cpu`` or the GPU's name, of this machine, which evaluates.
        resources: What the training runs on and with; None where nothing is trained.
        versions: Package -> version.
    """

    dataset_version: str = ""
    held_out_versions: Mapping[str, str] = field(default_factory=dict)
    model_version: str = ""
    tasks_version: str = ""
    vllm_version: str = ""
    server_asked: str = ""
    device: str = ""
    resources: Resources | None = None
    versions: Mapping[str, str]
