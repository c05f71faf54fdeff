"""What each format makes of a run's model: files, and what is to be scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, assert_never

import yaml

from sft import record
from sft.adapters import sbom, signing
from sft.adapters.checkpoint_files import CONFIG, read_json
from sft.adapters.export import compressed, gguf, int4, llama_quantize
from sft.adapters.os.process import run_module
from sft.artifacts import (
    DatasetArtifact,
    GateReport,
    ModelArtifact,
    RegisteredModel,
    TokenizedArtifact,
    UploadedModel,
)
from sft.config.schema import HOLDOUT, RunConfig
from sft.errors import DataError, StageError
from sft.progress import Progress
from sft.runner import export_kserve as kserve
from sft.runner.dispatch import pick
from sft.runner.export_request import ExportRequest
from sft.runner.export_scores import TUNED
from sft.runner.finished_run import FinishedRun
from sft.stages.export_card import ExportFormat
from sft.stages.model_card import CARD
from sft.stages.package import FACTS

_NOT_SCORED = "nothing was scored, as the run scored nothing (eval)"
_UNCHANGED = "the run's own files are served, unchanged, and these are the run's scores"
MANIFEST = "inferenceservice.yaml"
_OF_THE_ORIGINAL = (CARD, FACTS, sbom.NAME, signing.SIGNATURE)
"""Files of a model's folder that tell of it alone."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was made of a model.

    Attributes:
        model_dir: The export, read back as a model's folder, to be scored; None where the run's own files are used.
        kind: Type of the numbers in it; empty where nothing was converted.
        details: What the format's own steps found.
        notes: What the format does otherwise, a line each.
        lines: What a person is told besides.
        use: A command that uses the files.
        scored_as: What is scored, in words.
        versions: Of what made it.
    """

    model_dir: Path | None
    kind: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    use: str
    scored_as: str
    versions: dict[str, str] = field(default_factory=dict)


def make(
    cfg: RunConfig, run: FinishedRun, request: ExportRequest, files: Path, work: Path, progress: Progress
) -> Exported:
    """Write an export's files, and read them back.

    Args:
        cfg: The run's settings.
        run: Whose model it is.
        request: What is asked for.
        files: Folder that gets what is to be kept.
        work: Private folder.
        progress: Told of what takes long.

    Raises:
        SftError: It can't be written so, or is not read back as it was.
    """
    match request.format:
        case ExportFormat.gguf:
            made = _gguf(cfg, run, request, files, work, progress)
            return replace(made, notes=[*made.notes, *gguf.not_carried(run.package.model_dir)])
        case ExportFormat.ollama:
            return _ollama(cfg, run, request, files, work, progress)
        case ExportFormat.fp8 | ExportFormat.int8:
            return _compressed(run, request, files, work)
        case ExportFormat.int4:
            return _int4(cfg, run, request, files, work, progress)
        case ExportFormat.kserve:
            return _kserve(run, request.serving or kserve.Serving(), files)
        case never:
            assert_never(never)


def _gguf(
    cfg: RunConfig, run: FinishedRun, request: ExportRequest, files: Path, work: Path, progress: Progress
) -> Exported:
    if pick(run.artifacts, "model", ModelArtifact).trust_remote_code:
        raise StageError(f"--to {request.format.value}: the model runs code of its own, which no such file carries")
    made = gguf.export(
        run.package.model_dir,
        files,
        work,
        name=cfg.registry.model_name,
        kind=request.kind,
        held_out=list(_held_out(run)),
        program=request.llama_quantize,
        tell=progress.update,
    )
    is_mixture = made.kind in llama_quantize.TYPES
    return Exported(
        model_dir=made.model_dir,
        kind=made.kind,
        details=made.details | {"file": made.file.name},
        notes=made.notes,
        lines=[
            f"{made.file.name}, {made.file.stat().st_size / 1e6:,.1f} MB",
            *([f"matrices: {llama_quantize.type_line(made.details['types'])}"] if is_mixture else []),
            _same(made.details["prompts"]),
        ],
        use=f"llama-cli -m {made.file.name}",
        scored_as=gguf.SCORED_AS if TUNED in run.artifacts else _NOT_SCORED,
        versions=_versions("gguf"),
    )


def _compressed(run: FinishedRun, request: ExportRequest, files: Path, work: Path) -> Exported:
    made = compressed.export(
        run.package.model_dir,
        files,
        work,
        kind=request.format.value,
        trust_remote_code=pick(run.artifacts, "model", ModelArtifact).trust_remote_code,
        leave_out=_OF_THE_ORIGINAL,
        held_out=list(_held_out(run)),
    )
    return _in_few_bits(run, request, files, made, bits=8, scored_as=compressed.SCORED_AS)


def _int4(
    cfg: RunConfig, run: FinishedRun, request: ExportRequest, files: Path, work: Path, progress: Progress
) -> Exported:
    tokenized = pick(run.artifacts, "tokenize", TokenizedArtifact)
    made = int4.export(
        run.package.model_dir,
        files,
        work,
        python=str(request.python),
        calibration=int4.Calibration(file=tokenized.data_file, num_samples=request.num_samples, seed=cfg.training.seed),
        trust_remote_code=pick(run.artifacts, "model", ModelArtifact).trust_remote_code,
        leave_out=_OF_THE_ORIGINAL,
        held_out=list(_held_out(run)),
        tell=progress.update,
    )
    versions, known = made.pop("versions"), made["calibration"]
    exported = _in_few_bits(run, request, files, made, bits=4, scored_as=int4.SCORED_AS)
    fitted = f"GPTQ in groups of {made['group_size']}, on {known['num_samples']} of {known['of']} training samples"
    there = {f"{name} (of GPTQ's environment)": version for name, version in versions.items()}
    return replace(exported, notes=[fitted, *exported.notes], versions={**exported.versions, **there})


def _in_few_bits(
    run: FinishedRun, request: ExportRequest, files: Path, made: dict[str, Any], *, bits: int, scored_as: str
) -> Exported:
    """Return what was made in compressed-tensors' format."""
    return Exported(
        model_dir=files,
        kind=request.format.value,
        details=made,
        notes=made["prompts"].pop("notes"),
        lines=[
            f"{made['num_layers']} linear layers in {bits} bits, {made['share']:.1%} of its weights; the rest stays",
            f"{made['num_bytes'] / 1e6:,.1f} MB",
            _same(made["prompts"]),
        ],
        use="vllm serve .",
        scored_as=scored_as if TUNED in run.artifacts else _NOT_SCORED,
        versions=_versions("compressed-tensors"),
    )


def _same(prompts: Mapping[str, Any]) -> str:
    count = sum(prompts["held_out"].values()) + prompts["edge_cases"]
    return f"the same tokens in {count:,} prompts: {prompts['edge_cases']} edge cases, the rest held out"


def _versions(package: str) -> dict[str, str]:
    versions = record.versions()
    return {package: metadata.version(package), **{name: versions[name] for name in ("torch", "transformers")}}


def _ollama(
    cfg: RunConfig, run: FinishedRun, request: ExportRequest, files: Path, work: Path, progress: Progress
) -> Exported:
    made = _gguf(cfg, run, request, files, work, progress)
    asked = {
        "model_dir": str(run.package.model_dir),
        "file": str(files / "Modelfile"),
        "gguf": made.details["file"],
        "context_length": read_json(run.package.model_dir / CONFIG)["max_position_embeddings"],
        "held_out": list(_held_out(run)),
    }
    module = "sft.adapters.export.ollama"
    written = run_module(module, asked, folder=work / "ollama", what="writing the Modelfile")
    notes = written.pop("notes")
    count = sum(written["held_out"].values()) + written["edge_cases"]
    return Exported(
        model_dir=made.model_dir,
        kind=made.kind,
        details={**made.details, "modelfile": written},
        notes=[*made.notes, *notes],
        lines=[*made.lines, f"Modelfile, whose template renders {count:,} prompts as the model's own does"],
        use=f"ollama create {cfg.registry.model_name} -f Modelfile",
        scored_as=made.scored_as,
        versions=made.versions,
    )


def _kserve(run: FinishedRun, serving: kserve.Serving, files: Path) -> Exported:
    registered = [made for made in run.artifacts.values() if isinstance(made, RegisteredModel)]
    if not registered:
        fix = "sft register RUN registry=… registry.upload=s3://bucket/models"
        raise DataError(f"{run.folder}: its model is not registered", fix=fix)
    model_dir, latest = run.package.model_dir, registered[-1]
    has_template = (model_dir / "chat_template.jinja").is_file()
    if not has_template and not read_json(model_dir / "tokenizer_config.json").get("chat_template"):
        raise StageError("--to kserve: the model has no chat template to serve", fix="model.chat_template=FILE")
    uploads = [made for made in run.artifacts.values() if isinstance(made, UploadedModel)]
    uri = kserve.storage_uri(uploads[-1].uri if uploads else latest.uri)
    told = {
        "sft/run": run.record.run_id,
        "sft/package-digest": run.package.digest,
        "sft/registered-model": f"{latest.name} version {latest.version}",
    }
    documents = kserve.manifests(latest.name, uri, serving, annotations=told)
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
    (files / MANIFEST).write_text(text, encoding="utf-8")
    notes = [
        f"the runtime {serving.runtime_name} must be in the namespace, as a ServingRuntime or ClusterServingRuntime"
    ]
    if pick(run.artifacts, "model", ModelArtifact).trust_remote_code:
        raise StageError("--to kserve: the model runs code of its own, which the runtimes don't allow")
    return Exported(
        model_dir=None,
        details={"storage": uri, "runtime": serving.runtime_name},
        notes=notes,
        lines=[f"{MANIFEST}: {latest.name} version {latest.version} from {uri}"],
        use=f"kubectl apply -f {MANIFEST}",
        scored_as=_UNCHANGED if TUNED in run.artifacts else _NOT_SCORED,
    )


def gates_passed(run: FinishedRun) -> tuple[str, ...]:
    """Return a line for each gate that the run's model passed."""
    return pick(run.artifacts, "gates", GateReport).passed if "gates" in run.artifacts else ()


def _held_out(run: FinishedRun) -> Iterator[dict[str, str]]:
    for name, artifact in run.artifacts.items():
        if isinstance(artifact, DatasetArtifact) and artifact.num_eval:
            yield {"name": name.partition(":")[2] or HOLDOUT, "file": str(artifact.eval_file)}
