"""What stages hand each other: frozen facts, paths and digests, never live objects. Standard library only.

An artifact is a folder. Its digest is the sha256 of the sorted lines ``<sha256>  <relative path>`` of all its
files (what ``sha256sum`` prints) without its manifest and without ``logs/``, so equal content has an equal
digest wherever and whenever it was made. What must count towards the digest therefore lies in a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sft.files import inode, list_files, sha256_file
from sft.scores import Change, Score, format_score

MANIFEST_NAME = "manifest.json"
LOGS_NAME = "logs"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What every artifact has.

    Attributes:
        root: The folder that holds it. Not part of its identity.
        digest: See the module's docstring; empty until the store publishes it.
    """

    root: Path
    digest: str = ""

    @classmethod
    def kind(cls, name: str) -> type[Artifact]:
        """Return the kind of artifact that a manifest names.

        Raises:
            KeyError: There is none of that name.
        """
        return {kind.__name__: kind for kind in cls.__subclasses__()}[name]


@dataclass(frozen=True, kw_only=True)
class DatasetArtifact(Artifact):
    """Checked and split chat data: ``train.jsonl``, ``eval.jsonl``, ``rejected.jsonl``.

    Each line is ``{"messages": [{"role", "content"}, …]}``. Rows add up:
    ``num_rows = num_train + num_eval + num_rejected + num_duplicates + num_overlap + num_unused +
    num_contaminated``.

    Attributes:
        source: The uri it came from, without secrets.
        source_version: Commit, ETag or content digest of the source, as far as it has one.
        source_files: sha256 of each file that was read, by its name without secrets; of a dataset of the hub, its
            rows as they came.
        row_format: How the source spelled a conversation.
        num_rows: Input rows read, those of a separate evaluation set included.
        num_overlap: Training rows whose group stands in the separate evaluation set.
        num_unused: Valid rows beyond ``dataset.max_samples``.
        num_contaminated: Training rows that share text with an evaluation: ``contaminated.jsonl``.
        split_by: What samples have in common if they must go to the same half: ``prompt``, ``row`` or a column.
        num_groups: Groups of such samples that the split divided.
        unread_fields: How many rows have each field that isn't read.
        notes: What a person should know of the rows, a sentence each.
    """

    source: str
    source_version: str
    num_rows: int
    num_train: int
    num_eval: int
    num_rejected: int
    num_duplicates: int
    num_unused: int
    num_overlap: int = 0
    row_format: str = "messages"
    split_by: str = "row"
    num_groups: int = 0
    num_contaminated: int = 0
    source_files: dict[str, str] = field(default_factory=dict)
    unread_fields: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def num_accounted(self) -> int:
        """Rows whose place is known. Equal to `num_rows`, or a row was lost."""
        kept = self.num_train + self.num_eval
        left_out = self.num_duplicates + self.num_overlap + self.num_unused + self.num_contaminated
        return kept + self.num_rejected + left_out

    @property
    def train_file(self) -> Path:
        return self.root / "train.jsonl"

    @property
    def eval_file(self) -> Path:
        return self.root / "eval.jsonl"


@dataclass(frozen=True, kw_only=True)
class ModelArtifact(Artifact):
    """A base model that is ready to load: config, tokenizer with chat template, safetensors weights.

    Weights from the hub or a local folder stay where they are; ``root`` then holds only ``files.json``, the
    sha256 of each file, so that the artifact's digest covers them.

    Attributes:
        source: Hub id, absolute path, or ``scratch``.
        revision: Commit hash on the hub; empty otherwise.
        external_dir: Folder that holds the files; None for ``root`` itself.
        num_parameters: Count of weights, tied ones once; None where the files don't say.
        trust_remote_code: Whether the recipe lets code that comes with the model run.
        chat_template_changes: What the recipe makes of the model's own chat template, a line each. Where it makes
            something, ``root`` holds the model itself: links to its files, and the template.
    """

    source: str
    revision: str
    external_dir: Path | None
    num_parameters: int | None
    trust_remote_code: bool = False
    chat_template_changes: tuple[str, ...] = ()

    @property
    def model_dir(self) -> Path:
        return self.external_dir or self.root


@dataclass(frozen=True, kw_only=True)
class TokenizedArtifact(Artifact):
    """``data.jsonl`` as the trainer reads it: ``input_ids``, ``labels`` (-100 = no loss), ``len`` per sample.

    ``rejected.jsonl`` holds the rows of both splits that break a rule of the tokenizer: those of the training split are
    not trained (rows in = `num_rows` + `num_rejected`), those of the held-out split are not scored.

    Attributes:
        num_rows: Conversations that are trained.
        num_samples: What they became: more than one each where the chat template shows a turn otherwise once the
            conversation goes on.
        unrendered: Rows with a field that the chat template doesn't render, by field.
    """

    num_rows: int
    num_samples: int
    num_tokens: int
    num_loss_tokens: int
    longest_tokens: int
    num_rejected: int = 0
    num_eval_rejected: int = 0
    unrendered: dict[str, int] = field(default_factory=dict)

    @property
    def data_file(self) -> Path:
        return self.root / "data.jsonl"

    @property
    def rejected_file(self) -> Path:
        return self.root / "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class CheckpointArtifact(Artifact):
    """A fine-tuned model in Hugging Face layout under ``model/``, and ``logs/metrics.jsonl``, a row per step.

    The metrics hold speeds, so they don't count towards the digest: equal weights have an equal digest.

    Attributes:
        num_steps: Optimizer steps taken.
        num_epochs: Epochs finished.
        final_loss: Mean loss per loss token of the last step.
    """

    num_steps: int
    num_epochs: int
    final_loss: float
    world_size: int

    @property
    def model_dir(self) -> Path:
        return self.root / "model"

    def epoch_model_dir(self, epoch: int) -> Path:
        """Return the model of an epoch before the last, counted from 1, where the training kept it.

        It is named by the samples that had been seen (instructlab-training, utils.py:save_checkpoint@0.16.2).
        """
        rows = map(json.loads, self.metrics_file.read_text(encoding="utf-8").splitlines())
        samples_seen = max(row["samples_seen"] for row in rows if row["epoch"] < epoch)
        return self.root / "checkpoints" / f"samples_{samples_seen}"

    @property
    def metrics_file(self) -> Path:
        return self.root / LOGS_NAME / "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class EvalReport(Artifact):
    """Scores of one model: ``report.json``, lm-eval's ``results_*.json`` and ``samples_*.jsonl``.

    Attributes:
        model_digest: Digest of the artifact that holds the scored model.
        scores: Every number, tasks in the recipe's order, then the held-out split.
        task_versions: lm-eval's version of each task.
        task_data: sha256 of the documents on which each task, and the held-out split, was scored.
        chat_template_sha256: Of the scored model's.
        holdout_sample: Which held-out samples were scored, in words; empty where all were.
        held_out_tokens: Tokens over which the loss of a held-out set is a mean. Another tokenizer makes other ones.
        dtype: Type in which the weights were used; empty where a server knows.
        differs_from_saved: What was scored otherwise than the model is saved, a line each.
    """

    model_digest: str
    scores: tuple[Score, ...]
    task_versions: dict[str, str] = field(default_factory=dict)
    task_data: dict[str, str] = field(default_factory=dict)
    chat_template_sha256: str = ""
    holdout_sample: str = ""
    held_out_tokens: dict[str, int] = field(default_factory=dict)
    dtype: str = ""
    differs_from_saved: tuple[str, ...] = ()

    def score(self, name: str) -> Score | None:
        """Return the score named ``task.metric``, or None."""
        return next((s for s in self.scores if s.name == name), None)

    def other_data(self, other: EvalReport) -> list[str]:
        """Return the tasks that `other` was scored on with other documents, so that their scores don't compare."""
        return [name for name, digest in self.task_data.items() if other.task_data.get(name, digest) != digest]


@dataclass(frozen=True, kw_only=True)
class JudgeReport(Artifact):
    """How a judge compares the tuned model's answers to the held-out split with the base model's: ``judge.json``.

    ``judgments.jsonl`` holds each pair with what the judge said of it, and its value: 1, 0.5 or 0.

    Attributes:
        model: Who judged, as the recipe calls it.
        score: ``judge.win_rate``: wins and half of the ties, of all pairs.
        num_wins: Pairs in which both judgments prefer the tuned model's answer.
        num_ties: All pairs that are neither won nor lost, those below included.
        num_losses: Pairs in which both judgments prefer the base model's answer.
        num_equal: Pairs of the same text, which nobody was asked about.
        num_disagreements: Pairs whose judgments differ once the answers are swapped.
        num_unparsable: Judgments, two a pair, that end without a verdict.
        answered_by: What the server says that answered.
    """

    model: str
    score: Score
    num_wins: int
    num_ties: int
    num_losses: int
    num_equal: int
    num_disagreements: int
    num_unparsable: int
    answered_by: tuple[str, ...] = ()

    def __str__(self) -> str:
        unparsable = "1 judgment" if self.num_unparsable == 1 else f"{self.num_unparsable} judgments"
        rate = format_score(self.score.value, self.score.stderr)
        return (
            f"{self.score.name} {rate} by {self.model}: {self.num_wins} won, {self.num_ties} tied, {self.num_losses} "
            f"lost; of the ties, {self.num_equal} are equal texts and {self.num_disagreements} change with the order; "
            f"{unparsable} without a verdict"
        )


@dataclass(frozen=True, kw_only=True)
class ModelComparison(Artifact):
    """How the tuned model's scores differ from the base model's: ``comparison.json``, and the most changed samples.

    Attributes:
        confidence: Of the intervals.
        num_tests: Scores that were tested, for which verdicts are corrected.
        changes: One for each score that both models have.
    """

    confidence: float
    num_tests: int
    changes: tuple[Change, ...]

    @property
    def samples_file(self) -> Path:
        """``samples_changed.jsonl``: a `sft.stages.changed_samples.ChangedSample` per line."""
        return self.root / "samples_changed.jsonl"

    @property
    def explained(self) -> str:
        """What the verdicts rest on, in words."""
        if not self.num_tests:
            return "no score could be tested"
        of = "1 paired test" if self.num_tests == 1 else f"{self.num_tests} paired tests, corrected by Holm's method"
        return f"{of}, {self.confidence:.6g} confidence"

    def change(self, name: str) -> Change | None:
        """Return the change of the score named ``task.metric``, or None."""
        return next((change for change in self.changes if change.score == name), None)


@dataclass(frozen=True, kw_only=True)
class GateReport(Artifact):
    """That a model passed its gates: ``gates.json``.

    Attributes:
        passed: A line for each gate.
    """

    passed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ModelPackage(Artifact):
    """The model as it is given away, under ``model/``: weights and tokenizer as hard links to the checkpoint's, its
    ``adapter/`` with LoRA, the model card ``README.md``, and ``sft.json``, which holds the record of what made it.

    Attributes:
        record_digest: Digest of that record.
        signed: Whether ``model.sig`` is among the files.
    """

    record_digest: str
    signed: bool = False

    @property
    def model_dir(self) -> Path:
        return self.root / "model"


@dataclass(frozen=True, kw_only=True)
class UploadedModel(Artifact):
    """A model's folder somewhere else: ``upload.json``, with the uri and the sha256 of each file.

    Attributes:
        uri: Of these very files: what is uploaded later has another one.
        num_files: Files there.
        num_bytes: Their sum.
    """

    uri: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class RegisteredModel(Artifact):
    """Where a model version was registered: ``registration.json``.

    Attributes:
        registry: ``mlflow`` or ``kubeflow``.
        address: Tracking URI or server address, without secrets.
        name: Registered model name.
        version: Version in that registry.
        uri: Where the registered files lie.
    """

    registry: str
    address: str
    name: str
    version: str
    uri: str
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict)


def hash_files(root: Path, known: Mapping[tuple[int, int], str] | None = None) -> dict[str, str]:
    """Return relative POSIX path -> sha256 of every file under `root`, sorted, as an artifact's digest counts them.

    Args:
        root: The artifact's folder.
        known: Digests by inode, of files that were hashed already.
    """
    known = known or {}
    return {
        relative: known.get(inode(root / relative)) or sha256_file(root / relative)
        for relative in list_files(root)
        if relative != MANIFEST_NAME and not relative.startswith(f"{LOGS_NAME}/")
    }


def digest_of(files: dict[str, str]) -> str:
    """Return the artifact digest of hashed files; see the module's docstring."""
    lines = "".join(f"{sha}  {name}\n" for name, sha in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
