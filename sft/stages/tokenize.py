"""The tokenize stage: training samples in, token ids and loss labels out, once per data, tokenizer and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sft.adapters.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.progress import Progress


@dataclass(frozen=True, kw_only=True)
class TokenizeInputs:
    """What the tokenize stage takes."""

    dataset: DatasetArtifact
    model: ModelArtifact


def tokenize(cfg: TrainingConfig, inputs: TokenizeInputs, out: Path, progress: Progress) -> TokenizedArtifact:
    """Renders the training split with the model's chat template and masks all but the assistant's turns.

    Args:
        cfg: The training settings, of which only `max_seq_len` counts.
        inputs: Dataset and base model.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        StageError: A sample is too long, the template can't render one, or the loss mask would be wrong.
    """
    folder = out / LOGS_NAME
    progress.update(f"{inputs.dataset.num_train:,} samples")
    counts = run_module(
        "sft.adapters.instructlab.data",
        {
            "model_dir": str(inputs.model.model_dir),
            "train_file": str(inputs.dataset.train_file),
            "target": str(out / "data.jsonl"),
            "max_seq_len": cfg.max_seq_len,
        },
        folder=folder,
        what="tokenizing",
        env={"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1" if inputs.model.trust_remote_code else "0"},
    )
    made = TokenizedArtifact(root=out, **counts)
    share = made.num_loss_tokens / made.num_tokens
    progress.say(f"  {made.num_tokens:,} tokens, {share:.0%} for the loss; longest sample {made.longest_tokens}")
    return made
