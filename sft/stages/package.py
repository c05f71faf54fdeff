"""The package stage: the model as it is given away, with its card, the record of what made it, and on request a bill of
materials and a signature.

Nothing large is written: the checkpoint's files are hard-linked, or copied where the file system has no links. What
must be true of them is their digest, which comes from the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft import self_hashed_json
from sft.adapters import sbom, signing
from sft.artifacts import (
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    JudgeReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    TokenizedArtifact,
    hash_files,
)
from sft.config.schema import RegistryConfig
from sft.progress import Progress
from sft.redaction import redact
from sft.stages.model_card import CARD, card
from sft.stages.placed_files import place

SCHEMA = 1
FACTS = "sft.json"
_PARTS = ("model/", "adapter/")


@dataclass(frozen=True, kw_only=True)
class PackageInputs:
    """What is given away, and what the card tells of.

    Attributes:
        baseline: Scores of the base model; None where it wasn't scored.
        report: Scores of the tuned model; None where nothing was scored.
        comparison: How they differ; None where one of them is.
        epochs: Scores of the models of epochs, by epoch.
        judges: How a judge compares its answers with the base model's, for each held-out set that was judged.
        gates: That it passed them; None where there are none.
        record: The run up to here, without secrets.
        files: sha256 of each of the checkpoint's files.
        tokenized: What it was trained on; the card tells of a mix of sources.
    """

    base: ModelArtifact
    dataset: DatasetArtifact
    checkpoint: CheckpointArtifact
    baseline: EvalReport | None
    report: EvalReport | None
    comparison: ModelComparison | None
    epochs: Mapping[int, EvalReport] = field(default_factory=dict)
    judges: tuple[JudgeReport, ...] = ()
    gates: GateReport | None
    record: Mapping[str, Any]
    files: Mapping[str, str]
    tokenized: TokenizedArtifact | None = None


def check_publishing(cfg: RegistryConfig) -> signing.Signer | None:
    """Return who is to sign; None = nobody. Called before anything is trained, so that a key is missed early.

    Raises:
        StageError: An extra is not installed, or there is neither key nor identity to sign with.
    """
    if cfg.sbom:
        sbom.check_installed()
    return signing.signer(cfg.sign)


def package(cfg: RegistryConfig, inputs: PackageInputs, out: Path, progress: Progress) -> ModelPackage:
    """Put the model's folder together.

    Args:
        cfg: Name and description for the card; whether to sign, and to list the materials.
        inputs: The checkpoint, and where it came from.
        out: Private staging folder.
        progress: Told what was done.

    Raises:
        StageError: An extra is not installed, the key can't be used, or a file is not what the record says.
    """
    signer = check_publishing(cfg)
    model = out / "model"
    placed = {}
    for name, digest in inputs.files.items():
        if name.startswith(_PARTS):
            placed[name.removeprefix("model/")] = digest
            place(inputs.checkpoint.root / name, model / name.removeprefix("model/"), digest)
    (model / CARD).write_text(card(cfg.model_name, cfg.description, cfg.license, inputs), encoding="utf-8")
    if cfg.sbom:
        sbom.write(
            model,
            sbom.Material(name=cfg.model_name, version=cfg.model_version, sha256=inputs.checkpoint.digest),
            base=sbom.Material(name=inputs.base.source, version=inputs.base.revision, sha256=inputs.base.digest),
            dataset=sbom.Material(
                name=redact(inputs.dataset.source),
                version=redact(inputs.dataset.source_version),
                sha256=inputs.dataset.digest,
            ),
            files=placed,
        )
    record_digest = self_hashed_json.digest_of(inputs.record)
    own = {name: digest for name, digest in hash_files(model).items() if name not in placed}
    facts = {"schema": SCHEMA, "record": inputs.record, "record_digest": record_digest, "files": {**placed, **own}}
    (model / FACTS).write_bytes(self_hashed_json.dump_with_digest(facts))
    if signer:
        signing.sign(model, signer)
        progress.say(f"  signed with {signer}")
    return ModelPackage(root=out, record_digest=record_digest, signed=signer is not None)
