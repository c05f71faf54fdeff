"""What a training takes: data, base model, tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sft.artifacts.base import Artifact

ADAPTER_NAME = "adapter"
ROWS_NAME = "rows.txt"
"""Beside the samples of a tokenized artifact in which a row became several."""


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
        sources: Where the rows of each of ``dataset.sources`` went, by its name: ``rows``, and the parts that add up
            to it.
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
    sources: dict[str, dict[str, int]] = field(default_factory=dict)

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
        unread_weights: A line on the stored weights that transformers' class has no place for; empty = there are none.
        adapter: sha256 of each file of the adapter that was merged into it, by its path; ``root`` then holds the model.
        unmerged_dir: Where that adapter is trained on: the folder of the model without it, which is the frozen base;
            ``files.json`` is that folder's, and the adapter lies in ``adapter/``. None = no adapter is continued.
        trains_other_weights: Whether the weights that the ranks load are not those of `source`: they have an adapter in
            them, or rows for further tokens.
    """

    source: str
    revision: str
    external_dir: Path | None
    num_parameters: int | None
    trust_remote_code: bool = False
    chat_template_changes: tuple[str, ...] = ()
    unread_weights: str = ""
    adapter: dict[str, str] = field(default_factory=dict)
    unmerged_dir: Path | None = None
    trains_other_weights: bool = False

    @property
    def model_dir(self) -> Path:
        """Folder of the model as it is before the training, with which the tuned one is compared."""
        return self.external_dir or self.root

    @property
    def trained_dir(self) -> Path:
        """Folder of the weights that the ranks load."""
        return self.unmerged_dir or self.model_dir

    @property
    def adapted_model(self) -> str:
        """Name of the model that an adapter trained on it is of: not `source`, where that has other weights."""
        return str(self.trained_dir) if self.trains_other_weights else self.source

    @property
    def continued_adapter(self) -> Path | None:
        """Folder of the adapter that is trained on; None = there is none."""
        return self.root / ADAPTER_NAME if self.unmerged_dir else None


@dataclass(frozen=True, kw_only=True)
class TokenizedArtifact(Artifact):
    """``data.jsonl`` as the trainer reads it: ``input_ids``, ``labels`` (-100 = no loss), ``len`` per sample.

    ``rejected.jsonl`` holds the rows of both splits that break a rule of the tokenizer: those of the training split are
    not trained (rows in = `num_rows` + `num_rejected`), those of the held-out split are not scored.

    Attributes:
        num_rows: Conversations that are trained.
        num_samples: What they became: more than one each where the chat template shows a turn otherwise once the
            conversation goes on.
        num_truncated: Conversations that were too long and end after the last turn that fits.
        num_cut_tokens: What they lost.
        num_divided: Conversations that were too long and became `num_parts` parts.
        num_lost_parts: Further parts of them, which don't fit or don't train.
        unrendered: Rows with a field that the chat template doesn't render, by field.
        sources: What of each of ``dataset.sources`` is in the mix, by its name (`sft.stages.mixing.MixedSource`);
            `num_samples` and the tokens are those of the mix.
    """

    num_rows: int
    num_samples: int
    num_tokens: int
    num_loss_tokens: int
    longest_tokens: int
    num_rejected: int = 0
    num_eval_rejected: int = 0
    num_truncated: int = 0
    num_cut_tokens: int = 0
    num_divided: int = 0
    num_parts: int = 0
    num_lost_parts: int = 0
    unrendered: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def data_file(self) -> Path:
        return self.root / "data.jsonl"

    @property
    def rejected_file(self) -> Path:
        return self.root / "rejected.jsonl"

    @property
    def rows_file(self) -> Path | None:
        """Holds the number of each sample's row, a line each; None where each row is one sample."""
        file = self.root / ROWS_NAME
        return file if file.exists() else None

    @property
    def mix_lines(self) -> list[str]:
        """A line for each named source: its part of the mix."""
        total, tokens = (sum(source[what] for source in self.sources.values()) or 1 for what in ("used", "tokens"))
        return [
            f"{name}: {source['samples']:,} samples, {source['left_out']:,} left out, {source['repeated']:,} copies: "
            f"{source['used']:,} train (x {source['used'] / max(source['samples'], 1):.3g}), "
            f"{source['used'] / total:.1%} of the mix, {source['tokens'] / tokens:.1%} of its tokens"
            for name, source in self.sources.items()
        ]
