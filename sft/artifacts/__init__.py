"""What stages hand each other: frozen facts, paths and digests, never live objects. Standard library only.

An artifact is a folder. Its digest is the sha256 of the sorted lines ``<sha256>  <relative path>`` of all its
files (what ``sha256sum`` prints) without its manifest and without ``logs/``, so equal content has an equal
digest wherever and whenever it was made. What must count towards the digest therefore lies in a file.
"""

from __future__ import annotations

from sft.artifacts.base import LOGS_NAME, MANIFEST_NAME, Artifact, digest_of, hash_files
from sft.artifacts.evaluation import EvalReport, GateReport, JudgeReport, ModelComparison
from sft.artifacts.inputs import ADAPTER_NAME, ROWS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.artifacts.published import ModelPackage, RegisteredModel, UploadedModel
from sft.artifacts.training import CheckpointArtifact, ChosenStep, EpochEnd

__all__ = [
    "ADAPTER_NAME",
    "LOGS_NAME",
    "MANIFEST_NAME",
    "ROWS_NAME",
    "Artifact",
    "CheckpointArtifact",
    "ChosenStep",
    "DatasetArtifact",
    "EpochEnd",
    "EvalReport",
    "GateReport",
    "JudgeReport",
    "ModelArtifact",
    "ModelComparison",
    "ModelPackage",
    "RegisteredModel",
    "TokenizedArtifact",
    "UploadedModel",
    "digest_of",
    "hash_files",
]
