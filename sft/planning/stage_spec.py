"""The table of stages: what each makes, and everything that decides what that is.

Whoever needs a fact about a stage reads it here: the plan its settings, the runner whether a killed try is resumed, the
command line the group of its settings, a test the modules whose code makes its result. Adding a stage is a line in
`STAGES`, its file in ``sft/stages``, its artifact and a case in ``sft/runner/dispatch.py`` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    JudgeReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    TokenizedArtifact,
    UploadedModel,
)
from sft.config.schema import EvalBackend, ModelSource, RunConfig
from sft.planning.resources import NOT_IN_THE_WEIGHTS, Resources


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a result depends on besides the configuration.

    Attributes:
        dataset_version: State of the source: file times, ETag, commit.
        held_out_versions: The same of each set of `eval.holdouts`, by its name.
        model_version: State of the base model: file times, commit.
        tasks_version: Digest of the recipe's own lm-eval tasks.
        vllm_version: Of the vLLM that answers them; empty without it.
        device: ``cpu`` or the GPU's name, of this machine, which evaluates.
        resources: What the training runs on and with; None where nothing is trained.
        versions: Package -> version.
    """

    dataset_version: str = ""
    held_out_versions: Mapping[str, str] = field(default_factory=dict)
    model_version: str = ""
    tasks_version: str = ""
    vllm_version: str = ""
    device: str = ""
    resources: Resources | None = None
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage.

    Attributes:
        name: As steps, folders of the store and ``--until`` spell it.
        artifact: What it makes.
        group: Config group that its settings come from; empty = the whole configuration.
        settings: What of configuration and environment determines its result, besides its inputs: no more, or work is
            done twice; no less, or a stale result is served.
        packages: Third-party packages whose version changes its result.
        modules: Our modules whose code makes its result. A test pins their digest beside `revision`.
        revision: Raised when our code makes something else of the same inputs.
        is_resumable: Whether it continues from what a killed try has left: a download, a full state, answers.
        tells_of_its_run: Whether its artifact holds the run's name and times, so that no other run makes the same.
        machine_settings: Those of `settings` that the machine decides, not the recipe. A run that continues on another
            machine takes over what it made on the first.
    """

    name: str
    artifact: type[Artifact]
    group: str
    settings: Callable[[RunConfig, Environment], dict[str, Any]]
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    revision: int = 1
    is_resumable: bool = False
    tells_of_its_run: bool = False
    machine_settings: frozenset[str] = frozenset()

    def determined_by(self, cfg: RunConfig, environment: Environment) -> dict[str, Any]:
        """Return everything but its inputs that determines what the stage makes, as plain data."""
        versions = {name: environment.versions.get(name, "") for name in self.packages}
        return {**self.settings(cfg, environment), "revision": self.revision, "versions": versions}

    def without_machine(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings less those that the machine decides."""
        return {name: value for name, value in settings.items() if name not in self.machine_settings}


def _dataset(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    own = {**_plain(cfg.dataset), "source_version": environment.dataset_version}
    if cfg.dataset.decontaminate:
        tasks = cfg.eval.tasks if cfg.eval.enabled else []
        lm_eval = environment.versions.get("lm-eval", "")
        own["decontaminate"] = {
            "tasks": tasks,
            "holdouts": [*cfg.eval.holdouts],
            "include_path": environment.tasks_version,
            "lm-eval": lm_eval,
        }
    return own


def _model(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    unused = "scratch" if cfg.model.source is ModelSource.pretrained else "name_or_path"
    return {**_plain(cfg.model), unused: None, "source_version": environment.model_version}


def _tokenize(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    training, data = _plain(cfg.training), _plain(cfg.dataset)
    return {
        **{name: training[name] for name in ("max_seq_len", "train_on", "train_on_reasoning")},
        **{name: data[name] for name in ("on_invalid", "on_unrendered")},
    }


_NOT_IN_A_CHECKPOINT = {
    "env",
    "allow_any_env",
    "full_state_at_epoch",
    "checkpoint_every_steps",
    "keep_full_states",
    "stall_timeout_seconds",
    "max_restarts",
    "tracking",
    "launcher",
}
"""Training settings that say how a result is got, not what it is."""

_RESOLVED = {
    "fsdp",
    "precision",
    "attention",
    "use_liger",
    "gradient_checkpointing",
    "max_tokens_per_gpu",
    "num_loader_workers",
}
"""Training settings that count as what `Resources` made of them."""


def _train(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    own = {k: v for k, v in _plain(cfg.training).items() if k not in _NOT_IN_A_CHECKPOINT | _RESOLVED}
    resources = environment.resources.settings() if environment.resources else {}
    return {**own, "resources": {k: v for k, v in resources.items() if k not in NOT_IN_THE_WEIGHTS}}


_NOT_IN_A_SCORE = {
    "num_processes",
    *("allow_task_code", "baseline", "confidence", "enabled", "gates", "judge", "no_regression", "verbosity"),
    *("vllm", "every_epochs", "epoch_tasks", "epoch_holdouts"),
}
"""Evaluation settings that say what becomes of a score, or what may make it, not what it is."""


def _evaluate(cfg: RunConfig, environment: Environment) -> dict[str, Any]:
    own = {name: value for name, value in _plain(cfg.eval).items() if name not in _NOT_IN_A_SCORE}
    if cfg.eval.backend is EvalBackend.vllm:
        where_it_is = {"python", "startup_seconds"}
        own["vllm"] = {k: v for k, v in _plain(cfg.eval.vllm).items() if k not in where_it_is}
        own["vllm"]["version"] = environment.vllm_version
    own["holdout"]["metrics"] = cfg.eval.holdout.scored()
    return {
        **own,
        "holdouts": [*cfg.eval.holdouts],  # their rows are inputs
        "writes_answers": cfg.eval.writes_answers(),
        "include_path": environment.tasks_version,
        "device": environment.device,
    }


def _judge(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    how_it_is_asked = {"key_env", "concurrency", "timeout_seconds", "max_attempts", "max_unparsable"}
    own = {k: v for k, v in _plain(cfg.eval.judge).items() if k not in how_it_is_asked}
    return {"judge": own, "seed": cfg.eval.seed}


def _compare(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    return {"confidence": cfg.eval.confidence}


def _gates(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    return {"gates": cfg.eval.gates, "no_regression": cfg.eval.no_regression}


def _package(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    return {name: value for name, value in _plain(cfg).items() if name not in {"run_root", "sweep"}}


def _upload(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    return {"upload": cfg.registry.upload}


def _register(cfg: RunConfig, _environment: Environment) -> dict[str, Any]:
    return _plain(cfg.registry)


def _plain(group: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(group)
    return plain


STAGES: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        StageSpec(
            name="dataset",
            artifact=DatasetArtifact,
            group="dataset",
            settings=_dataset,
            modules=(
                "sft.stages.dataset",
                "sft.stages.decontaminate",
                "sft.stages.grouping",
                "sft.stages.held_out_set",
                "sft.stages.split",
                "sft.adapters.evaluation.task_documents",
                "sft.adapters.evaluation.tasks",
                "sft.chat.decontamination",
                "sft.chat.prompt",
                "sft.chat.sample",
                "sft.chat.formats",
                "sft.chat.plain_rows",
                "sft.chat.row_reader",
                "sft.chat.tool_calls",
                "sft.chat.turns",
                "sft.chat.unread",
                "sft.chat.rejected",
                "sft.adapters.source",
                "sft.adapters.split_names",
                "sft.adapters.arrow_rows",
                "sft.adapters.readers",
                "sft.adapters.synthetic",
                "sft.adapters.hub.rows",
            ),
            revision=4,
            is_resumable=True,
        ),
        StageSpec(
            name="model",
            artifact=ModelArtifact,
            group="model",
            settings=_model,
            packages=("transformers", "tokenizers"),
            modules=(
                "sft.stages.model",
                "sft.stages.model_checks",
                "sft.stages.chat_template",
                "sft.adapters.architecture",
                "sft.adapters.checkpoint_files",
                "sft.adapters.checkpoint_writer",
                "sft.adapters.random_model",
                "sft.adapters.vocabulary",
            ),
            revision=3,
        ),
        StageSpec(
            name="tokenize",
            artifact=TokenizedArtifact,
            group="training",
            settings=_tokenize,
            packages=("instructlab-training", "transformers", "tokenizers"),
            modules=(
                "sft.stages.tokenize",
                "sft.adapters.instructlab.loss_masks",
                "sft.chat.rejected",
                "sft.chat.loss",
                "sft.chat.sample",
                "sft.chat.special_tokens",
                "sft.chat.template",
                "sft.chat.time_limit",
                "sft.chat.turn_tokens",
                "sft.chat.unrendered",
            ),
            revision=4,
        ),
        StageSpec(
            name="train",
            artifact=CheckpointArtifact,
            group="training",
            settings=_train,
            packages=("torch", "instructlab-training", "accelerate", "transformers", "peft"),
            modules=(
                "sft.stages.train",
                "sft.adapters.checkpoint_files",
                "sft.adapters.checkpoint_writer",
                "sft.adapters.instructlab.packing",
                "sft.adapters.instructlab.rank.cpu",
                "sft.adapters.instructlab.rank.fixes",
                "sft.adapters.instructlab.rank.full_states",
                "sft.adapters.instructlab.rank.loader",
                "sft.adapters.instructlab.rank.loop",
                "sft.adapters.instructlab.rank.lora",
                "sft.adapters.instructlab.rank.loss",
                "sft.adapters.instructlab.rank.minibatches",
                "sft.adapters.instructlab.rank.worker",
                "sft.adapters.instructlab.torchrun",
            ),
            revision=7,
            is_resumable=True,
            machine_settings=frozenset({"resources"}),
        ),
        StageSpec(
            name="evaluate",
            artifact=EvalReport,
            group="eval",
            settings=_evaluate,
            packages=("torch", "lm-eval", "transformers", "rouge-score", "sacrebleu"),
            modules=(
                "sft.stages.evaluate",
                "sft.stages.scoring",
                "sft.chat.loss",
                "sft.chat.special_tokens",
                "sft.chat.rejected",
                "sft.chat.sample",
                "sft.chat.template",
                "sft.chat.time_limit",
                "sft.chat.turn_tokens",
                "sft.adapters.checkpoint_files",
                "sft.adapters.evaluation.aggregate",
                "sft.adapters.evaluation.answer_cache",
                "sft.adapters.evaluation.as_saved",
                "sft.adapters.evaluation.completions_model",
                "sft.adapters.evaluation.conversation",
                "sft.adapters.evaluation.greedy",
                "sft.adapters.evaluation.holdout",
                "sft.adapters.evaluation.holdout_sample",
                "sft.adapters.evaluation.lm_eval",
                "sft.adapters.evaluation.oom_batches",
                "sft.adapters.evaluation.results",
                "sft.adapters.evaluation.shares",
                "sft.adapters.evaluation.tasks",
                "sft.adapters.evaluation.text_metrics",
                "sft.adapters.evaluation.vllm_server",
                "sft.adapters.evaluation.worker",
                "sft.adapters.evaluation.writing",
                "sft.sample_values",
                "sft.scores",
            ),
            revision=7,
            is_resumable=True,
            machine_settings=frozenset({"device"}),
        ),
        StageSpec(
            name="compare",
            artifact=ModelComparison,
            group="eval",
            settings=_compare,
            modules=(
                "sft.stages.compare",
                "sft.stages.changed_samples",
                "sft.paired",
                "sft.sample_values",
                "sft.scores",
            ),
        ),
        StageSpec(
            name="judge",
            artifact=JudgeReport,
            group="eval",
            settings=_judge,
            modules=(
                "sft.stages.judge",
                "sft.adapters.chat_completions",
                "sft.adapters.evaluation.aggregate",
                "sft.adapters.evaluation.holdout_sample",
                "sft.adapters.evaluation.judge",
                "sft.adapters.evaluation.sample_log",
                "sft.adapters.evaluation.text_metrics",
                "sft.sample_values",
            ),
            is_resumable=True,
        ),
        StageSpec(
            name="gates",
            artifact=GateReport,
            group="eval",
            settings=_gates,
            modules=("sft.stages.gates", "sft.gate_rules", "sft.sample_values", "sft.scores"),
            revision=2,
        ),
        StageSpec(
            name="package",
            artifact=ModelPackage,
            group="",
            settings=_package,
            modules=(
                "sft.stages.package",
                "sft.stages.epoch_scores",
                "sft.stages.model_card",
                "sft.adapters.sbom",
                "sft.adapters.signing",
            ),
            revision=2,
            tells_of_its_run=True,
        ),
        StageSpec(
            name="upload",
            artifact=UploadedModel,
            group="registry",
            settings=_upload,
            modules=(
                "sft.stages.upload",
                "sft.adapters.upload",
                "sft.adapters.upload.hub",
                "sft.adapters.upload.login",
                "sft.adapters.upload.oci",
                "sft.adapters.upload.oci_client",
                "sft.adapters.upload.s3",
            ),
            is_resumable=True,
            tells_of_its_run=True,
        ),
        StageSpec(
            name="register",
            artifact=RegisteredModel,
            group="registry",
            settings=_register,
            modules=(
                "sft.stages.register",
                "sft.stages.registries",
                "sft.adapters.registry",
                "sft.adapters.registry.kubeflow",
                "sft.adapters.registry.mlflow",
            ),
            tells_of_its_run=True,
        ),
    )
}
"""Every stage by its name, in the order in which a run may have them."""


def stage_of(step: str) -> StageSpec:
    """Return the stage that does a step: ``evaluate`` does ``evaluate:base``."""
    return STAGES[step.partition(":")[0]]
