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
from sft.scores import Change, Score
from sft.stages.registries import registry_of


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
        uri=registration.uri,
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
    facts: dict[str, Fact | None] = {
        **inputs.parameters,
        "uri": _place(cfg, inputs),
        "version": cfg.model_version,
        "author": cfg.author,
        "run_id": inputs.run_id,
        "git_commit": inputs.git_commit,
        "base_model.source": inputs.base.source,
        "base_model.revision": inputs.base.revision,
        "base_model.digest": inputs.base.digest,
        "base_model.num_parameters": inputs.base.num_parameters,
        "base_model.trust_remote_code": inputs.base.trust_remote_code,
        "dataset.source": redact(inputs.dataset.source),
        "dataset.source_version": inputs.dataset.source_version,
        "dataset.digest": inputs.dataset.digest,
        "dataset.num_rows": inputs.dataset.num_rows,
        "dataset.num_train": inputs.dataset.num_train,
        "dataset.num_eval": inputs.dataset.num_eval,
        "dataset.num_rejected": inputs.dataset.num_rejected,
        "dataset.num_duplicates": inputs.dataset.num_duplicates,
        "dataset.num_unused": inputs.dataset.num_unused,
        DIGEST_KEY: inputs.checkpoint.digest,
        "checkpoint.num_steps": inputs.checkpoint.num_steps,
        "checkpoint.num_epochs": inputs.checkpoint.num_epochs,
        "checkpoint.final_loss": inputs.checkpoint.final_loss,
        "checkpoint.world_size": inputs.checkpoint.world_size,
        "package.digest": inputs.package.digest,
        "gates": "; ".join(inputs.gates.passed) if inputs.gates else None,
        **{f"versions.{name}": version for name, version in inputs.versions.items()},
    }
    known = {name: fact for name, fact in facts.items() if fact is not None and fact != ""}
    scores: dict[str, Fact] = {
        **_scores("base", inputs.baseline.scores if inputs.baseline else ()),
        **_scores("tuned", inputs.report.scores if inputs.report else ()),
        **_scores("tuned", [judge.score for judge in inputs.judges]),
        **{f"verdict.{change.score}": str(change) for change in _changes(inputs)},
    }
    for name, value in (known | scores).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise StageError(f"{name}={value} can't be registered: a number must be finite")
    return Registration(
        name=cfg.model_name,
        version=cfg.model_version,
        description=cfg.description,
        author=cfg.author,
        format_name=cfg.model_format_name,
        format_version=cfg.model_format_version,
        uri=str(facts["uri"]),
        facts=known,
        scores=scores,
        run_id=inputs.run_id,
        origin=_origin(cfg, inputs.run_id),
    )


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
