"""The tokenize stage: training samples in, token ids and loss labels out, once per data, tokenizer and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import Rejected, Rejections
from sft.config.schema import OnInvalid, TrainingConfig
from sft.progress import Progress


@dataclass(frozen=True, kw_only=True)
class TokenizeInputs:
    """What the tokenize stage takes.

    Attributes:
        on_invalid: `dataset.on_invalid`, for the rules that need the tokenizer.
    """

    dataset: DatasetArtifact
    model: ModelArtifact
    on_invalid: OnInvalid = OnInvalid.error


def tokenize(cfg: TrainingConfig, inputs: TokenizeInputs, out: Path, progress: Progress) -> TokenizedArtifact:
    """Renders the training split with the model's chat template and masks all but the assistant's turns.

    Args:
        cfg: The training settings, of which only `max_seq_len` counts.
        inputs: Dataset and base model.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        DataError: Samples are too long, hold special tokens, or the template can't render them.
        StageError: The loss mask would be wrong.
    """
    folder = out / LOGS_NAME
    progress.update(f"{inputs.dataset.num_train:,} samples")
    counts = run_module(
        "sft.adapters.instructlab.loss_masks",
        {
            "model_dir": str(inputs.model.model_dir),
            "train_file": str(inputs.dataset.train_file),
            "target": str(out / "data.jsonl"),
            "rejected": str(out / "rejected.jsonl"),
            "max_seq_len": cfg.max_seq_len,
        },
        folder=folder,
        what="tokenizing",
        env={"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1" if inputs.model.trust_remote_code else "0"},
    )
    if folded := counts.pop("num_folded"):
        text = "the chat template knows no system turn: it is put before the first user's text"
        progress.say(f"  {text}, in {folded} of {inputs.dataset.num_train} samples")
    made = TokenizedArtifact(root=out, **counts)
    if made.num_samples + made.num_rejected != inputs.dataset.num_train:
        raise AssertionError(f"{inputs.dataset.num_train} samples came in, {made} holds another number")
    if made.num_rejected:
        _refuse(made, inputs, cfg, progress)
    share = made.num_loss_tokens / made.num_tokens
    progress.say(f"  {made.num_tokens:,} tokens, {share:.0%} for the loss; longest sample {made.longest_tokens}")
    return made


def _refuse(made: TokenizedArtifact, inputs: TokenizeInputs, cfg: TrainingConfig, progress: Progress) -> None:
    """Stops at samples that can't be trained, or says how many are left out."""
    rejections = Rejections()
    with (made.root / "rejected.jsonl").open("rb") as lines:
        for line in lines:
            rejections.add(msgspec.json.decode(line, type=Rejected))
    if inputs.on_invalid is OnInvalid.error or not made.num_samples:
        longest = made.longest_tokens + 1
        fits = f"training.max_seq_len={longest} (and training.max_tokens_per_gpu at least that), or "
        fix = f"{fits if longest > cfg.max_seq_len else ''}leave them out: dataset.on_invalid=drop"
        raise rejections.error(inputs.dataset.num_train, fix)
    counts = ", ".join(f"{count} {rule}" for rule, count in rejections.by_rule.most_common())
    progress.say(f"  {made.num_rejected} samples left out: {counts}")
