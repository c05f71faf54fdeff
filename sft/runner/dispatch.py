"""Which artifacts each stage takes: one `match` case per step; what a stage does is its own business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sft import record
from sft.adapters.registry.mlflow_database import ARTIFACTS
from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    TokenizedArtifact,
    UploadedModel,
    digest_of,
)
from sft.config.flatten import flat
from sft.config.schema import HOLDOUT, RunConfig
from sft.planning.mixing import Mix
from sft.planning.plan import Step, tokens_to_validate
from sft.planning.resources import Resources
from sft.planning.state_id import state_id
from sft.progress import Progress
from sft.stages.compare import CompareInputs, compare
from sft.stages.dataset import dataset
from sft.stages.decontaminate import EvaluationTasks
from sft.stages.epoch_scores import epochs_of
from sft.stages.evaluate import EvaluateInputs, HeldOutSet, evaluate
from sft.stages.gate_checks import check_choice, check_gates, check_samples
from sft.stages.gates import GatesInputs, gates
from sft.stages.held_out_set import held_out_set
from sft.stages.judge import JudgeInputs, judge, judges_of
from sft.stages.launcher import launcher_of
from sft.stages.model import ModelInputs, model
from sft.stages.package import PackageInputs, package
from sft.stages.register import RegisterInputs, register
from sft.stages.registries import embedded_mlflow
from sft.stages.select import SelectInputs, select, trained_step
from sft.stages.sources import speaking_of
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.train import train
from sft.stages.training_task import TrainInputs
from sft.stages.upload import UploadInputs, upload
from sft.store import Store

A = TypeVar("A", bound=Artifact)


def perform(
    step: Step,
    cfg: RunConfig,
    artifacts: Mapping[str, Artifact],
    *,
    run_record: record.RunRecord,
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
        artifacts: What the earlier steps made, by name.
        run_record: The run's record so far.
        folder: Where it lies.
        out: Private staging folder.
        progress: The run's display.
        resources: What a training runs on and with; None where the plan has none.
        detach: Whether a training that is another's to do is left to itself.

    Raises:
        SftError: The stage failed.
    """
    stage, _, held_out = step.name.partition(":")
    match step.name:
        case "dataset":
            sets = {name.partition(":")[2]: pick(artifacts, name, DatasetArtifact).eval_file for name in step.needs}
            return dataset(cfg.dataset, out, progress, EvaluationTasks.of(cfg.eval), sets)
        case "model":
            return model(cfg.model, ModelInputs(dataset=_dataset(artifacts)), out, progress)
        case "tokenize":
            return tokenize(cfg.training, _tokenize_inputs("dataset", cfg, artifacts), out, progress)
        case "train":
            if base := _baseline(artifacts):
                check_gates(cfg.eval, base)
                check_choice(cfg.training.select, base)
            key = run_record.step(step.name).key or ""
            own = state_id(step, {name: artifacts[name].digest for name in step.needs})
            inputs = train_inputs(
                cfg, artifacts, resources, run_id=run_record.run_id, key=key, detach=detach, states=own
            )
            return train(cfg.training, inputs, out, progress)
        case "evaluate:base" | "evaluate:tuned":
            inputs_of_model = evaluate_inputs(step, cfg, artifacts)
            check_samples(cfg.eval, inputs_of_model.held_out)
            return evaluate(cfg.eval, inputs_of_model, out, progress)
        case "select":
            return select(cfg.training.select, _select_inputs(artifacts, run_record), out, progress)
        case "compare":
            reports = CompareInputs(
                baseline=pick(artifacts, "evaluate:base", EvalReport),
                report=pick(artifacts, "evaluate:tuned", EvalReport),
            )
            return compare(cfg.eval, reports, out, progress)
        case _ if stage == "judge":
            return judge(cfg.eval, judge_inputs(held_out or HOLDOUT, artifacts), out, progress)
        case "gates":
            scores = GatesInputs(
                baseline=_baseline(artifacts),
                report=pick(artifacts, "evaluate:tuned", EvalReport),
                comparison=_comparison(artifacts),
                judges=judges_of(artifacts),
            )
            return gates(cfg.eval, scores, out, progress)
        case "package":
            return package(cfg.registry, _package_inputs(artifacts, run_record), out, progress)
        case "upload":
            packed = UploadInputs(
                package=pick(artifacts, "package", ModelPackage), files=run_record.step("package").files
            )
            return upload(cfg.registry, packed, out, progress)
        case "register":
            return register(cfg.registry, _register_inputs(cfg, folder, artifacts, run_record), out, progress)
        case _ if stage == "evaluate":
            epoch = int(held_out.removeprefix("epoch-"))
            inputs_of_epoch = _epoch_inputs(epoch, step, cfg, artifacts, run_record)
            return evaluate(cfg.eval.of_epochs(), inputs_of_epoch, out, progress)
        case _ if stage == "dataset":
            return held_out_set(cfg, held_out, out, progress)
        case _ if stage == "tokenize":
            of_set, _, labels = held_out.partition(":")
            inputs_of_set = _tokenize_inputs(f"dataset:{of_set}", cfg, artifacts)
            with speaking_of(f"eval.holdouts.{of_set}"):
                return tokenize(cfg.training, replace(inputs_of_set, is_validated=bool(labels)), out, progress)
        case _:
            raise AssertionError(f"no stage for step {step.name}")


def train_inputs(
    cfg: RunConfig,
    artifacts: Mapping[str, Artifact],
    resources: Resources | None,
    *,
    run_id: str,
    key: str,
    detach: bool = False,
    states: str = "",
) -> TrainInputs:
    """Return what the training takes of the earlier steps."""
    if resources is None:
        raise AssertionError("a plan with a training was made without resources")
    return TrainInputs(
        resources=resources,
        model=pick(artifacts, "model", ModelArtifact),
        tokenized=pick(artifacts, "tokenize", TokenizedArtifact),
        validated={
            name: pick(artifacts, tokens_to_validate(name), TokenizedArtifact) for name in cfg.training.validation_sets
        },
        run_name=cfg.name,
        run_id=run_id,
        key=key,
        detach=detach,
        state_id=states,
        run_root=Path(cfg.run_root),
    )


def _tokenize_inputs(data: str, cfg: RunConfig, artifacts: Mapping[str, Artifact]) -> TokenizeInputs:
    return TokenizeInputs(
        dataset=pick(artifacts, data, DatasetArtifact),
        model=pick(artifacts, "model", ModelArtifact),
        on_invalid=cfg.dataset.on_invalid,
        on_unrendered=cfg.dataset.on_unrendered,
        mix=Mix.of(cfg.dataset) if data == "dataset" else None,
    )


def judge_inputs(held_out: str, artifacts: Mapping[str, Artifact]) -> JudgeInputs:
    """Return what a judge takes of the earlier steps to compare the answers to a held-out set."""
    return JudgeInputs(
        held_out=held_out,
        dataset=pick(artifacts, "dataset" if held_out == HOLDOUT else f"dataset:{held_out}", DatasetArtifact),
        baseline=pick(artifacts, "evaluate:base", EvalReport),
        report=pick(artifacts, "evaluate:tuned", EvalReport),
    )


def evaluate_inputs(step: Step, cfg: RunConfig, artifacts: Mapping[str, Artifact]) -> EvaluateInputs:
    """Return what the evaluation of the base model or of the tuned one takes of the earlier steps."""
    base = pick(artifacts, "model", ModelArtifact)
    scored = base if step.name == "evaluate:base" else pick(artifacts, trained_step(artifacts), CheckpointArtifact)
    tokenized = [name for name in step.needs if name.partition(":")[0] == "tokenize"]
    return EvaluateInputs(
        model_dir=scored.model_dir,
        model_digest=scored.digest,
        trust_remote_code=base.trust_remote_code,
        answers=Store(Path(cfg.run_root) / "store").answers,
        settings=step.settings,
        held_out=tuple(_held_out_set(name.partition(":")[2], artifacts) for name in tokenized),
    )


def _epoch_inputs(
    epoch: int, step: Step, cfg: RunConfig, artifacts: Mapping[str, Artifact], run_record: record.RunRecord
) -> EvaluateInputs:
    trained = pick(artifacts, "train", CheckpointArtifact)
    end, known = trained.epoch_end(epoch), run_record.step("train").files
    digest = digest_of({name: known[source] for name, source in end.files(known).items()})
    inputs = evaluate_inputs(step, cfg, artifacts)
    return replace(inputs, model_dir=trained.root / end.folder, model_digest=digest)


def _select_inputs(artifacts: Mapping[str, Artifact], run_record: record.RunRecord) -> SelectInputs:
    return SelectInputs(
        checkpoint=pick(artifacts, "train", CheckpointArtifact),
        epochs=epochs_of(artifacts),
        files=run_record.step("train").files,
    )


def check_known_samples(cfg: RunConfig, artifacts: Mapping[str, Artifact]) -> None:
    """Refuse gates on held-out sets that are known to have too few samples.

    Raises:
        StageError: One has.
    """
    names = [
        ("" if name == HOLDOUT else name, f":{name}" if name != HOLDOUT else "") for name in cfg.eval.held_out_names
    ]
    known = [name for name, suffix in names if {f"dataset{suffix}", f"tokenize{suffix}"} <= artifacts.keys()]
    check_samples(cfg.eval, [_held_out_set(name, artifacts) for name in known])


def _held_out_set(name: str, artifacts: Mapping[str, Artifact]) -> HeldOutSet:
    """Return a set of `eval.holdouts`, or the evaluation split for the empty name."""
    suffix = name and f":{name}"
    return HeldOutSet(
        name=name or HOLDOUT,
        dataset=pick(artifacts, f"dataset{suffix}", DatasetArtifact),
        tokenized=pick(artifacts, f"tokenize{suffix}", TokenizedArtifact),
    )


def _dataset(artifacts: Mapping[str, Artifact]) -> DatasetArtifact | None:
    return pick(artifacts, "dataset", DatasetArtifact) if "dataset" in artifacts else None


def _baseline(artifacts: Mapping[str, Artifact]) -> EvalReport | None:
    return pick(artifacts, "evaluate:base", EvalReport) if "evaluate:base" in artifacts else None


def _comparison(artifacts: Mapping[str, Artifact]) -> ModelComparison | None:
    return pick(artifacts, "compare", ModelComparison) if "compare" in artifacts else None


def _gates(artifacts: Mapping[str, Artifact]) -> GateReport | None:
    return pick(artifacts, "gates", GateReport) if "gates" in artifacts else None


def _package_inputs(artifacts: Mapping[str, Artifact], run_record: record.RunRecord) -> PackageInputs:
    return PackageInputs(
        base=pick(artifacts, "model", ModelArtifact),
        dataset=pick(artifacts, "dataset", DatasetArtifact),
        checkpoint=pick(artifacts, trained_step(artifacts), CheckpointArtifact),
        baseline=_baseline(artifacts),
        report=pick(artifacts, "evaluate:tuned", EvalReport) if "evaluate:tuned" in artifacts else None,
        comparison=_comparison(artifacts),
        epochs=epochs_of(artifacts),
        judges=judges_of(artifacts),
        gates=_gates(artifacts),
        record=run_record.until("package"),
        files=run_record.step(trained_step(artifacts)).files,
        tokenized=pick(artifacts, "tokenize", TokenizedArtifact),
    )


def _register_inputs(
    cfg: RunConfig, folder: Path, artifacts: Mapping[str, Artifact], run_record: record.RunRecord
) -> RegisterInputs:
    root = Path(cfg.run_root).absolute()
    return RegisterInputs(
        run_id=folder.name,
        run_record=folder / record.NAME,
        base=pick(artifacts, "model", ModelArtifact),
        dataset=pick(artifacts, "dataset", DatasetArtifact),
        checkpoint=pick(artifacts, trained_step(artifacts), CheckpointArtifact),
        package=pick(artifacts, "package", ModelPackage),
        uploaded=pick(artifacts, "upload", UploadedModel) if cfg.registry.upload is not None else None,
        baseline=_baseline(artifacts),
        report=pick(artifacts, "evaluate:tuned", EvalReport) if "evaluate:tuned" in artifacts else None,
        comparison=_comparison(artifacts),
        judges=judges_of(artifacts),
        gates=_gates(artifacts),
        parameters=flat(cfg, ("model", "dataset", "training", "eval")),
        git_commit=run_record.git_commit,
        versions=run_record.versions,
        mlflow_database=embedded_mlflow(root),
        mlflow_artifacts=root / ARTIFACTS,
        volume=cfg.registry.pvc or launcher_of(cfg.training.launcher).volume(cfg.training.launcher),
    )


def pick(artifacts: Mapping[str, Artifact], name: str, kind: type[A]) -> A:
    """Return the artifact that a step made, of the type that it is known to make."""
    artifact = artifacts[name]
    if not isinstance(artifact, kind):
        raise TypeError(f"{name} made {type(artifact).__name__}, not {kind.__name__}")
    return artifact
