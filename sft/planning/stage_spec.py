"""The table of stages: what each makes, and everything that decides what that is.

Whoever needs a fact about a stage reads it here: the plan its settings, the runner whether a killed try is resumed, the
command line the group of its settings, a test the modules whose code makes its result. Adding a stage is a line in
`STAGES`, its file in ``sft/stages``, its artifact and a case in ``sft/runner/dispatch.py`` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
from sft.config.schema import RunConfig
from sft.planning import stage_settings
from sft.planning.environment import Environment


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage.

    Attributes:
        name: As steps, folders of the store and ``--until`` spell it.
        artifact: What it makes.
        group: Config group that its settings come from; empty = the whole configuration.
        settings: What of configuration and environment determines its result, besides its inputs: no more, or work is
            done twice; no less, or a stale result is served.
        packages: Third-party packages whose version changes its result, where they are installed.
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
        versions = {name: environment.versions[name] for name in self.packages if name in environment.versions}
        return {**self.settings(cfg, environment), "revision": self.revision, "versions": versions}

    def without_machine(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings less those that the machine decides."""
        return {name: value for name, value in settings.items() if name not in self.machine_settings}


STAGES: dict[str, StageSpec] = {
    spec.name: spec
    for spec in (
        StageSpec(
            name="dataset",
            artifact=DatasetArtifact,
            group="dataset",
            settings=stage_settings.dataset,
            modules=(
                "sft.stages.dataset",
                "sft.stages.decontaminate",
                "sft.stages.grouping",
                "sft.stages.held_out_set",
                "sft.stages.sources",
                "sft.stages.split",
                "sft.adapters.evaluation.task_documents",
                "sft.adapters.evaluation.tasks",
                "sft.chat.decontamination",
                "sft.chat.prompt",
                *("sft.chat.sample", "sft.chat.formats", "sft.chat.plain_rows", "sft.chat.row_reader"),
                *("sft.chat.tool_calls", "sft.chat.turns", "sft.chat.unread", "sft.chat.rejected"),
                "sft.chat.repeated_keys",
                "sft.chat.source_name",
                "sft.adapters.source",
                "sft.adapters.split_names",
                "sft.adapters.unread_files",
                "sft.adapters.arrow_rows",
                *("sft.adapters.readers", "sft.adapters.row_batches", "sft.adapters.decompression"),
                *("sft.adapters.csv_rows", "sft.adapters.json_rows", "sft.adapters.parquet_rows"),
                "sft.adapters.synthetic",
                "sft.adapters.hub.rows",
            ),
            revision=6,
            is_resumable=True,
        ),
        StageSpec(
            name="model",
            artifact=ModelArtifact,
            group="model",
            settings=stage_settings.model,
            packages=("transformers", "tokenizers"),
            modules=(
                "sft.stages.model",
                "sft.stages.model_checks",
                "sft.stages.chat_template",
                "sft.stages.merge",
                "sft.adapters.adapter_files",
                "sft.adapters.architecture",
                "sft.adapters.checkpoint_files",
                "sft.adapters.checkpoint_values",
                "sft.adapters.checkpoint_writer",
                "sft.adapters.merged_adapters",
                "sft.adapters.random_model",
                "sft.adapters.vocabulary",
            ),
            revision=5,
        ),
        StageSpec(
            name="tokenize",
            artifact=TokenizedArtifact,
            group="training",
            settings=stage_settings.tokenize,
            packages=("instructlab-training", "transformers", "tokenizers"),
            modules=(
                "sft.stages.tokenize",
                "sft.stages.mixing",
                "sft.planning.mixing",
                "sft.adapters.instructlab.loss_masks",
                "sft.adapters.instructlab.sample_tokens",
                "sft.chat.rejected",
                "sft.chat.loss",
                "sft.chat.raw_text",
                "sft.chat.reasoning",
                "sft.chat.sample",
                "sft.chat.source_name",
                "sft.chat.special_tokens",
                "sft.chat.template",
                "sft.chat.time_limit",
                "sft.chat.too_long",
                "sft.chat.turn_tokens",
                "sft.chat.unrendered",
            ),
            revision=6,
        ),
        StageSpec(
            name="train",
            artifact=CheckpointArtifact,
            group="training",
            settings=stage_settings.train,
            packages=(
                *("torch", "instructlab-training", "accelerate", "transformers", "peft"),
                *("liger-kernel", "flash-attn"),
            ),
            modules=(
                "sft.stages.train",
                "sft.stages.training_task",
                "sft.stages.earlier_states",
                "sft.stages.state_mirror",
                "sft.stages.trained_models",
                "sft.adapter_choice",
                "sft.parameter_choice",
                "sft.planning.adapters",
                "sft.planning.flops",
                "sft.planning.model_shape",
                "sft.planning.row_packing",
                "sft.adapters.adapter_files",
                "sft.adapters.checkpoint_files",
                "sft.adapters.checkpoint_writer",
                "sft.adapters.instructlab.packed_rows",
                "sft.adapters.instructlab.packing",
                "sft.adapters.instructlab.rank.adapted",
                "sft.adapters.instructlab.rank.batch",
                "sft.adapters.instructlab.rank.by_source",
                "sft.adapters.instructlab.rank.chunked_head",
                "sft.adapters.instructlab.rank.compilation",
                "sft.adapters.instructlab.rank.context_parallel",
                "sft.adapters.instructlab.rank.continued",
                "sft.adapters.instructlab.rank.copies",
                "sft.adapters.instructlab.rank.cpu",
                "sft.adapters.instructlab.rank.fixes",
                "sft.adapters.instructlab.rank.fsdp2",
                "sft.adapters.instructlab.rank.background",
                "sft.adapters.instructlab.rank.full_states",
                "sft.adapters.instructlab.rank.kernels",
                "sft.adapters.instructlab.rank.loader",
                "sft.adapters.instructlab.rank.loop",
                "sft.adapters.instructlab.rank.lora",
                "sft.adapters.instructlab.rank.loss",
                "sft.adapters.instructlab.rank.minibatches",
                "sft.adapters.instructlab.rank.noise",
                "sft.adapters.instructlab.rank.objective",
                "sft.adapters.instructlab.rank.optimizer",
                "sft.adapters.instructlab.rank.optimizers",
                "sft.adapters.instructlab.rank.quantized",
                "sft.adapters.instructlab.rank.recomputation",
                "sft.adapters.instructlab.rank.row_split",
                "sft.adapters.instructlab.rank.saved_models",
                "sft.adapters.instructlab.rank.schedule",
                "sft.adapters.instructlab.rank.selection",
                "sft.adapters.instructlab.rank.sharding",
                "sft.adapters.instructlab.rank.state_files",
                "sft.adapters.instructlab.rank.state_lookup",
                "sft.adapters.instructlab.rank.state_tensors",
                "sft.adapters.instructlab.rank.step_row",
                "sft.adapters.instructlab.rank.validation",
                "sft.adapters.instructlab.rank.varlen",
                "sft.adapters.instructlab.rank.worker",
                "sft.adapters.os.inherited",
                "sft.adapters.instructlab.torchrun",
                "sft.adapters.instructlab.training_length",
            ),
            revision=14,
            is_resumable=True,
            machine_settings=frozenset({"resources"}),
        ),
        StageSpec(
            name="evaluate",
            artifact=EvalReport,
            group="eval",
            settings=stage_settings.evaluate,
            packages=("torch", "lm-eval", "transformers", "tokenizers", "rouge-score", "sacrebleu"),
            modules=(
                "sft.stages.evaluate",
                "sft.stages.scoring",
                "sft.chat.loss",
                "sft.chat.special_tokens",
                "sft.chat.rejected",
                "sft.chat.sample",
                "sft.chat.template",
                "sft.chat.time_limit",
                "sft.chat.too_long",
                "sft.chat.reasoning",
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
                "sft.adapters.evaluation.task_notes",
                "sft.adapters.evaluation.tasks",
                "sft.adapters.evaluation.text_metrics",
                "sft.adapters.evaluation.vllm_server",
                "sft.adapters.os.inherited",
                "sft.adapters.evaluation.worker",
                "sft.adapters.evaluation.writing",
                "sft.sample_values",
                "sft.scores",
            ),
            revision=9,
            is_resumable=True,
            machine_settings=frozenset({"device"}),
        ),
        StageSpec(
            name="select",
            artifact=CheckpointArtifact,
            group="training",
            settings=stage_settings.select,
            modules=("sft.stages.select", "sft.stages.placed_files", "sft.scores"),
        ),
        StageSpec(
            name="compare",
            artifact=ModelComparison,
            group="eval",
            settings=stage_settings.compare,
            modules=(
                "sft.stages.compare",
                "sft.stages.changed_samples",
                "sft.paired",
                "sft.sample_values",
                "sft.scores",
            ),
            revision=3,
        ),
        StageSpec(
            name="judge",
            artifact=JudgeReport,
            group="eval",
            settings=stage_settings.judge,
            modules=(
                "sft.stages.judge",
                "sft.adapters.chat_completions",
                "sft.adapters.evaluation.aggregate",
                "sft.adapters.evaluation.holdout_sample",
                "sft.adapters.evaluation.judge",
                "sft.adapters.evaluation.judge_pairs",
                "sft.adapters.evaluation.sample_log",
                "sft.adapters.evaluation.text_metrics",
                "sft.sample_values",
            ),
            revision=2,
            is_resumable=True,
        ),
        StageSpec(
            name="gates",
            artifact=GateReport,
            group="eval",
            settings=stage_settings.gates,
            modules=("sft.stages.gates", "sft.gate_rules", "sft.sample_values", "sft.scores"),
            revision=3,
        ),
        StageSpec(
            name="package",
            artifact=ModelPackage,
            group="",
            settings=stage_settings.package,
            modules=(
                "sft.stages.package",
                "sft.stages.epoch_scores",
                "sft.stages.model_card",
                "sft.stages.placed_files",
                "sft.adapters.sbom",
                "sft.adapters.signing",
            ),
            revision=3,
            tells_of_its_run=True,
        ),
        StageSpec(
            name="upload",
            artifact=UploadedModel,
            group="registry",
            settings=stage_settings.upload,
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
            settings=stage_settings.register,
            modules=(
                "sft.stages.register",
                "sft.stages.registries",
                "sft.adapters.registry",
                "sft.adapters.registry.kubeflow",
                "sft.adapters.registry.kubeflow_api",
                "sft.adapters.registry.kubeflow_facts",
                "sft.adapters.registry.kubeflow_versions",
                "sft.adapters.registry.mlflow",
                "sft.adapters.registry.mlflow_database",
                "sft.adapters.registry.mlflow_versions",
            ),
            revision=4,
            tells_of_its_run=True,
        ),
    )
}
"""Every stage by its name, in the order in which a run may have them."""


def stage_of(step: str) -> StageSpec:
    """Return the stage that does a step: ``evaluate`` does ``evaluate:base``."""
    return STAGES[step.partition(":")[0]]
