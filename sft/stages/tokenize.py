"""The tokenize stage: training samples in, token ids and loss labels out, once per data, tokenizer and loss mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import Rejected, Rejections
from sft.config.schema import OnInvalid, OnUnrendered, TrainingConfig
from sft.progress import Progress

_UNRENDERED = "unrendered"


@dataclass(frozen=True, kw_only=True)
class TokenizeInputs:
    """What the tokenize stage takes.

    Attributes:
        on_invalid: `dataset.on_invalid`, for the rules that need the tokenizer.
        on_unrendered: `dataset.on_unrendered`.
    """

    dataset: DatasetArtifact
    model: ModelArtifact
    on_invalid: OnInvalid = OnInvalid.error
    on_unrendered: OnUnrendered = OnUnrendered.error


def tokenize(cfg: TrainingConfig, inputs: TokenizeInputs, out: Path, progress: Progress) -> TokenizedArtifact:
    """Render the training split with the model's chat template and label the tokens that count for the loss.

    Args:
        cfg: The training settings, of which `max_seq_len`, `train_on` and `train_on_reasoning` count.
        inputs: Dataset and base model.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        DataError: Samples are too long, hold special tokens, or the template can't render them or not all of them.
        StageError: No sample can be trained with this chat template.
    """
    progress.update(f"{inputs.dataset.num_train:,} samples")
    counts = run_module(
        "sft.adapters.instructlab.loss_masks",
        {
            "train_file": str(inputs.dataset.train_file),
            "target": str(out / "data.jsonl"),
            "rejected": str(out / "rejected.jsonl"),
            "settings": {
                "model_dir": str(inputs.model.model_dir),
                "max_seq_len": cfg.max_seq_len,
                "train_on": cfg.train_on.value,
                "train_on_reasoning": cfg.train_on_reasoning,
                "keep_unrendered": inputs.on_unrendered is OnUnrendered.warn,
            },
        },
        folder=out / LOGS_NAME,
        what="tokenizing",
        env={"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1" if inputs.model.trust_remote_code else "0"},
    )
    num_folded, examples = counts.pop("num_folded"), counts.pop("examples")
    result = TokenizedArtifact(root=out, **counts)
    if result.num_rows + result.num_rejected != inputs.dataset.num_train:
        raise AssertionError(f"{inputs.dataset.num_train} rows came in, {result} holds another number")
    if result.num_rejected:
        _refuse(result, inputs, cfg, progress)
    _say_how_rendered(result, num_folded, examples, progress)
    share = result.num_loss_tokens / result.num_tokens
    progress.say(f"  {result.num_tokens:,} tokens, {share:.0%} for the loss; longest sample {result.longest_tokens}")
    return result


def _say_how_rendered(
    result: TokenizedArtifact, num_folded: int, examples: Mapping[str, Any], progress: Progress
) -> None:
    """Say what the template does otherwise than a reader of the rows may think."""
    if num_folded:
        text = "the chat template knows no system turn: it is put before the first user's text"
        progress.say(f"  {text}, in {num_folded} of {result.num_rows} samples")
    for field, count in result.unrendered.items():
        progress.say(
            f"  not trained: {field} in {count:,} of {result.num_rows:,} rows, which the chat template does not render "
            f"(dataset.on_unrendered=warn); for example {examples[field]}"
        )
    if result.num_samples != result.num_rows:
        progress.say(
            f"  {result.num_rows:,} rows became {result.num_samples:,} samples, because the chat template shows a turn "
            "otherwise once the conversation goes on; each is trained as the model writes it"
        )


def _refuse(result: TokenizedArtifact, inputs: TokenizeInputs, cfg: TrainingConfig, progress: Progress) -> None:
    """Stop at rows that can't be trained, or say how many are left out.

    Raises:
        DataError: A setting says that such rows are errors, or no row is left.
    """
    rejections = Rejections()
    with (result.root / "rejected.jsonl").open("rb") as lines:
        for line in lines:
            rejections.add(msgspec.json.decode(line, type=Rejected))
    num_unrendered = rejections.by_rule[_UNRENDERED]
    is_error = inputs.on_invalid is OnInvalid.error and len(rejections) > num_unrendered
    if is_error or (inputs.on_unrendered is OnUnrendered.error and num_unrendered) or not result.num_rows:
        raise rejections.error(inputs.dataset.num_train, _fix(result, cfg, num_unrendered, len(rejections)))
    counts = ", ".join(f"{count} {rule}" for rule, count in rejections.by_rule.most_common())
    progress.say(f"  {result.num_rejected} samples left out: {counts}")


def _fix(result: TokenizedArtifact, cfg: TrainingConfig, num_unrendered: int, num_rejected: int) -> str:
    fixes = []
    if num_unrendered:
        fixes.append("train without that part (dataset.on_unrendered=warn) or without those rows (=drop_row)")
    if result.longest_tokens >= cfg.max_seq_len:
        longest = result.longest_tokens + 1
        fixes.append(f"training.max_seq_len={longest} (and training.max_tokens_per_gpu at least that)")
    if num_rejected > num_unrendered:
        fixes.append("leave them out: dataset.on_invalid=drop")
    return ", or ".join(fixes)
