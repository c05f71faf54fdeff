"""Owns the last stage: the tuned model becomes a version in a registry, with the facts that say where it came from.

Does not own the registries' protocols (`sft.adapters.registry`) nor where the model files are kept.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from sft.adapters.registry import DIGEST_KEY, Fact, Registration
from sft.adapters.registry.mlflow import TrackingRun
from sft.artifacts import (
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    JudgeReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    UploadedModel,
)
from sft.config.schema import RegistryConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.redaction import redact
from sft.scores import Change, Score, Verdict
from sft.stages.registries import registry_of

_LIBRARY = "transformers"
_LORA, _RANK = "training.lora.", "training.lora.rank"


@dataclass(frozen=True, kw_only=True)
class RegisterInputs:
    """What is registered, and where it came from.

    Attributes:
        run_id: The run's name.
        run_record: Its ``run.json``.
        package: The folder that is registered: the checkpoint's model with its card and record.
        uploaded: Where that folder was brought; None where it stays.
        baseline: Scores of the base model; None where it wasn't scored.
        report: Scores of the tuned model; None where nothing was scored.
        comparison: How they differ; None where one of them is.
        judges: How a judge compares its answers with the base model's, for each held-out set that was judged.
        gates: That it passed them; None where there are none.
        parameters: Settings of model, training and evaluation by dotted key, without secrets.
        git_commit: Commit of the code; None outside a repository.
        versions: Version of each library that matters, by its name.
        mlflow_database: Of MLflow when `registry.address` is empty.
        mlflow_artifacts: Artifact folder of a SQLite tracking store.
        volume: ``claim:/mount/path`` of the volume that the package lies on; None where it is this machine's.
    """

    run_id: str
    run_record: Path
    base: ModelArtifact
    dataset: DatasetArtifact
    checkpoint: CheckpointArtifact
    package: ModelPackage
    uploaded: UploadedModel | None
    baseline: EvalReport | None
    report: EvalReport | None
    comparison: ModelComparison | None
    judges: tuple[JudgeReport, ...] = ()
    gates: GateReport | None
    parameters: dict[str, str | int | float | bool]
    git_commit: str | None
    versions: dict[str, str]
    mlflow_database: Path
    mlflow_artifacts: Path
    volume: str | None = None


def register(cfg: RegistryConfig, inputs: RegisterInputs, out: Path, progress: Progress) -> RegisteredModel:
    """Register the checkpoint and write ``registration.json``; a checkpoint registered already is found again.

    Args:
        cfg: Which registry. `kind` is not `none`, and a Kubeflow registry has an address: else there is no stage.
        inputs: Facts of the run.
        out: Private folder.
        progress: Told what was done.

    Raises:
        StageError: The registry refused, can't be reached, or a fact can't be registered.
    """
    registration = describe(cfg, inputs)
    registry = registry_of(cfg, database=inputs.mlflow_database)
    if registry is None:
        raise ValueError(f"registry={cfg.kind.value} without an address registers nothing")
    done = registry.register(registration, _tracking_run(inputs), out / "logs" / cfg.kind.value)
    progress.say(f"  {done.note}")
    model = RegisteredModel(
        root=out,
        registry=cfg.kind.value,
        address=redact(registry.address),
        name=registration.name,
        version=done.version,
        uri=done.uri,
        api=done.api,
        metadata=done.facts,
    )
    record = {name: value for name, value in asdict(model).items() if name not in ("root", "digest")}
    (out / "registration.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return model


def describe(cfg: RegistryConfig, inputs: RegisterInputs) -> Registration:
    """Return the version to register.

    Raises:
        StageError: A number among its facts is not finite; no registry takes it.
    """
    base, data, checkpoint = inputs.base, inputs.dataset, inputs.checkpoint
    uri = _place(cfg, inputs)
    facts: dict[str, Fact | None] = {
        "run_id": inputs.run_id,
        "base_model": f"{base.source}@{base.revision}" if base.revision else base.source,
        "base_model.digest": base.digest,
        "base_model.num_parameters": base.num_parameters,
        "license": cfg.license,
        "libraryName": _LIBRARY,
        "dataset.source": redact(data.source),
        "dataset.digest": data.digest,
        "dataset.num_train": data.num_train,
        DIGEST_KEY: checkpoint.digest,
        "checkpoint.num_steps": checkpoint.num_steps,
        "checkpoint.final_loss": checkpoint.final_loss,
        "checkpoint.choice": str(checkpoint.choice) if checkpoint.choice else None,
        "package.digest": inputs.package.digest,
        "gates": "; ".join(inputs.gates.passed) if inputs.gates else None,
        "git_commit": inputs.git_commit,
    }
    details: dict[str, Fact | None] = {
        **_in_effect(inputs.parameters, base),
        "uri": uri,
        "version": cfg.model_version,
        "author": cfg.author,
        "base_model.source": base.source,
        "base_model.revision": base.revision,
        "base_model.trust_remote_code": base.trust_remote_code,
        "dataset.source_version": data.source_version,
        "dataset.num_rows": data.num_rows,
        "dataset.num_eval": data.num_eval,
        "dataset.num_rejected": data.num_rejected,
        "dataset.num_duplicates": data.num_duplicates,
        "dataset.num_unused": data.num_unused,
        "checkpoint.num_epochs": checkpoint.num_epochs,
        "checkpoint.world_size": checkpoint.world_size,
        **{f"versions.{name}": version for name, version in inputs.versions.items()},
    }
    scores: dict[str, Fact] = {
        **_scores("base", inputs.baseline.scores if inputs.baseline else ()),
        **_scores("tuned", inputs.report.scores if inputs.report else ()),
        **_scores("tuned", [judge.score for judge in inputs.judges]),
        **{f"verdict.{change.score}": str(change) for change in _changes(inputs)},
    }
    for name, value in (_known(facts) | _known(details) | scores).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise StageError(f"{name}={value} can't be registered: a number must be finite")
    return Registration(
        name=cfg.model_name,
        version=cfg.model_version,
        description=cfg.description,
        author=cfg.author,
        format_name=cfg.model_format_name,
        format_version=cfg.model_format_version,
        uri=uri,
        facts=_known(facts),
        details=_known(details),
        scores=scores,
        run_id=inputs.run_id,
        origin=_origin(cfg, inputs.run_id),
        labels=tuple(cfg.labels),
        worse=tuple(change.score for change in _changes(inputs) if change.verdict is Verdict.worse),
    )


def _known(facts: dict[str, Fact | None]) -> dict[str, Fact]:
    return {name: fact for name, fact in facts.items() if fact is not None and fact != ""}


def _in_effect(parameters: dict[str, str | int | float | bool], base: ModelArtifact) -> dict[str, Fact | None]:
    """Return the settings without those that had no effect: of a model that wasn't made, of an adapter of rank 0."""
    idle = ("" if base.source == "scratch" else "model.scratch.", "" if parameters.get(_RANK) else _LORA)
    return {key: value for key, value in parameters.items() if not key.startswith(tuple(filter(None, idle)))}


def _place(cfg: RegistryConfig, inputs: RegisterInputs) -> str:
    """Return where the model's folder is: where it was uploaded to, where the recipe says, or where it was made."""
    if inputs.uploaded:
        return inputs.uploaded.uri
    return cfg.uri or _address(inputs.volume, inputs.package.model_dir.resolve())


def _address(volume: str | None, folder: Path) -> str:
    """Return a folder's address for others: on a volume, or its path on this machine.

    Raises:
        StageError: It is not on that volume.
    """
    if volume is None:
        return folder.as_uri()
    claim, _, mount = volume.partition(":")
    if not folder.is_relative_to(mount):
        raise StageError(f"registry.pvc={volume}: the model is not there but in {folder}", fix=f"run_root={mount}/runs")
    return f"pvc://{claim}/{quote(folder.relative_to(mount).as_posix())}"


def _origin(cfg: RegistryConfig, run_id: str) -> dict[str, str]:
    origin = {
        "model_source_kind": cfg.source_kind,
        "model_source_class": cfg.source_class,
        "model_source_group": cfg.source_group or platform.node(),
        "model_source_id": cfg.source_id or run_id,
        "model_source_name": cfg.source_name or cfg.model_name,
        "storage_key": cfg.storage_key,
        "storage_path": cfg.storage_path,
    }
    return {name: value for name, value in origin.items() if value}


def _scores(which: str, of_model: Iterable[Score]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for score in of_model:
        scores[f"{which}.{score.name}"] = score.value
        if score.stderr is not None:
            scores[f"{which}.{score.name}_stderr"] = score.stderr
    return scores


def _changes(inputs: RegisterInputs) -> Sequence[Change]:
    return inputs.comparison.changes if inputs.comparison else ()


def _tracking_run(inputs: RegisterInputs) -> TrackingRun:
    reports = {"base": inputs.baseline, "tuned": inputs.report}
    comparison = {"comparison.json": str(inputs.comparison.root / "comparison.json")} if inputs.comparison else {}
    return TrackingRun(
        name=inputs.run_id,
        artifact_root=str(inputs.mlflow_artifacts.resolve()),
        parameters=inputs.parameters,
        curve=str(inputs.checkpoint.metrics_file),
        files={
            "run.json": str(inputs.run_record),
            **{f"{which}/report.json": str(report.root / "report.json") for which, report in reports.items() if report},
            **comparison,
        },
    )
