"""Which artifacts each stage takes: one `match` case per step; what a stage does is its own business."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from sft import record
from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    ModelArtifact,
    ModelPackage,
    TokenizedArtifact,
    UploadedModel,
)
from sft.config.flatten import flat
from sft.config.schema import RunConfig
from sft.planning.plan import Step
from sft.planning.resources import Resources
from sft.progress import Progress
from sft.stages.dataset import dataset
from sft.stages.evaluate import EvaluateInputs, evaluate
from sft.stages.gates import GatesInputs, gates
from sft.stages.launcher import launcher_of
from sft.stages.model import ModelInputs, model
from sft.stages.package import PackageInputs, package
from sft.stages.register import RegisterInputs, embedded_mlflow, register
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.train import TrainInputs, train
from sft.stages.upload import UploadInputs, upload

A = TypeVar("A", bound=Artifact)


def perform(
    step: Step,
    cfg: RunConfig,
    have: Mapping[str, Artifact],
    *,
    rec: record.RunRecord,
    folder: Path,
    out: Path,
    progress: Progress,
    resources: Resources | None,
    detach: bool = False,
) -> Artifact:
    """Do a step: give its stage the artifacts that it takes.

    Args:
        step: Of the plan of `cfg`.
        cfg: A checked configuration.
        have: What the earlier steps made, by name.
        rec: The run's record so far.
        folder: Where it lies.
        out: Private staging folder.
        progress: The run's display.
        resources: What a training runs on and with; None where the plan has none.
        detach: Whether a training that is another's to do is left to itself.

    Raises:
        SftError: The stage failed.
    """
    match step.name:
        case "dataset":
            return dataset(cfg.dataset, out, progress)
        case "model":
            return model(cfg.model, ModelInputs(dataset=_dataset(have)), out, progress)
        case "tokenize":
            data, base = pick(have, "dataset", DatasetArtifact), pick(have, "model", ModelArtifact)
            return tokenize(
                cfg.training,
                TokenizeInputs(dataset=data, model=base, on_invalid=cfg.dataset.on_invalid),
                out,
                progress,
            )
        case "train":
            key = rec.step(step.name).key or ""
            inputs = train_inputs(cfg, have, resources, run_id=rec.run_id, key=key, detach=detach)
            return train(cfg.training, inputs, out, progress)
        case "evaluate:base" | "evaluate:tuned":
            return evaluate(cfg.eval, _evaluate_inputs(step.name, have), out, progress)
        case "gates":
            report = pick(have, "evaluate:tuned", EvalReport)
            return gates(cfg.eval, GatesInputs(baseline=_baseline(have), report=report), out, progress)
        case "package":
            return package(cfg.registry, _package_inputs(have, rec), out, progress)
        case "upload":
            packed = UploadInputs(package=pick(have, "package", ModelPackage), files=rec.step("package").files)
            return upload(cfg.registry, packed, out, progress)
        case "register":
            return register(cfg.registry, _register_inputs(cfg, folder, have, rec), out, progress)
        case _:
            raise AssertionError(f"no stage for step {step.name}")


def train_inputs(
    cfg: RunConfig,
    have: Mapping[str, Artifact],
    resources: Resources | None,
    *,
    run_id: str,
    key: str,
    detach: bool = False,
) -> TrainInputs:
    """Return what the training takes of the earlier steps."""
    if resources is None:
        raise AssertionError("a plan with a training was made without resources")
    return TrainInputs(
        resources=resources,
        model=pick(have, "model", ModelArtifact),
        tokenized=pick(have, "tokenize", TokenizedArtifact),
        run_name=cfg.name,
        run_id=run_id,
        key=key,
        detach=detach,
    )


def _evaluate_inputs(name: str, have: Mapping[str, Artifact]) -> EvaluateInputs:
    base = pick(have, "model", ModelArtifact)
    scored = base if name == "evaluate:base" else pick(have, "train", CheckpointArtifact)
    return EvaluateInputs(
        model_dir=scored.model_dir,
        model_digest=scored.digest,
        trust_remote_code=base.trust_remote_code,
        dataset=_dataset(have),
    )


def _dataset(have: Mapping[str, Artifact]) -> DatasetArtifact | None:
    return pick(have, "dataset", DatasetArtifact) if "dataset" in have else None


def _baseline(have: Mapping[str, Artifact]) -> EvalReport | None:
    return pick(have, "evaluate:base", EvalReport) if "evaluate:base" in have else None


def _gates(have: Mapping[str, Artifact]) -> GateReport | None:
    return pick(have, "gates", GateReport) if "gates" in have else None


def _package_inputs(have: Mapping[str, Artifact], rec: record.RunRecord) -> PackageInputs:
    return PackageInputs(
        base=pick(have, "model", ModelArtifact),
        dataset=pick(have, "dataset", DatasetArtifact),
        checkpoint=pick(have, "train", CheckpointArtifact),
        baseline=_baseline(have),
        report=pick(have, "evaluate:tuned", EvalReport) if "evaluate:tuned" in have else None,
        gates=_gates(have),
        record=rec.until("package"),
        files=rec.step("train").files,
    )


def _register_inputs(
    cfg: RunConfig, folder: Path, have: Mapping[str, Artifact], rec: record.RunRecord
) -> RegisterInputs:
    root = Path(cfg.run_root).absolute()
    return RegisterInputs(
        run_id=folder.name,
        run_record=folder / record.NAME,
        base=pick(have, "model", ModelArtifact),
        dataset=pick(have, "dataset", DatasetArtifact),
        checkpoint=pick(have, "train", CheckpointArtifact),
        package=pick(have, "package", ModelPackage),
        uploaded=pick(have, "upload", UploadedModel) if cfg.registry.upload is not None else None,
        baseline=_baseline(have),
        report=pick(have, "evaluate:tuned", EvalReport) if "evaluate:tuned" in have else None,
        gates=_gates(have),
        parameters=flat(cfg, ("model", "dataset", "training", "eval")),
        git_commit=rec.git_commit,
        versions=rec.versions,
        mlflow_uri=f"sqlite:///{embedded_mlflow(root)}",
        mlflow_artifacts=root / "mlflow-artifacts",
        volume=cfg.registry.pvc or launcher_of(cfg.training.launcher).volume(cfg.training.launcher),
    )


def pick(have: Mapping[str, Artifact], name: str, kind: type[A]) -> A:
    """Return the artifact that a step made, of the type that it is known to make."""
    artifact = have[name]
    if not isinstance(artifact, kind):
        raise TypeError(f"{name} made {type(artifact).__name__}, not {kind.__name__}")
    return artifact
