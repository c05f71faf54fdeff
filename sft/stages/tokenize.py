"""The tokenize stage: training samples in, token ids and loss labels out, once per data, tokenizer and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import Rejections, read_rejected
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
    """Render both splits with the model's chat template, and mask all but the assistant's turns of the training split.

    Args:
        cfg: The training settings, of which only `max_seq_len` counts.
        inputs: Dataset and base model.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        DataError: Samples of either split are too long, hold special tokens, or the template can't render them.
        StageError: The loss mask would be wrong.
    """
    folder = out / LOGS_NAME
    data = inputs.dataset
    progress.update(f"{data.num_train + data.num_eval:,} samples")
    counts = run_module(
        "sft.adapters.instructlab.loss_masks",
        {
            "model_dir": str(inputs.model.model_dir),
            "train_file": str(data.train_file),
            "eval_file": str(data.eval_file) if data.num_eval else None,
            "target": str(out / "data.jsonl"),
            "rejected": str(out / "rejected.jsonl"),
            "max_seq_len": cfg.max_seq_len,
        },
        folder=folder,
        what="tokenizing",
        env={"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1" if inputs.model.trust_remote_code else "0"},
    )
    train = counts["train"]
    held_out = counts.get("eval") or dict.fromkeys(train, 0)
    if folded := train.pop("num_folded"):
        text = "the chat template knows no system turn: it is put before the first user's text"
        progress.say(f"  {text}, in {folded} of {data.num_train} samples")
    result = TokenizedArtifact(root=out, **train, num_eval_rejected=held_out["num_rejected"])
    _check_counts(data.num_train, result.num_samples + result.num_rejected)
    _check_counts(data.num_eval, held_out["num_samples"] + held_out["num_rejected"])
    if result.num_rejected or result.num_eval_rejected:
        _refuse(result, inputs, cfg, max(result.longest_tokens, held_out["longest_tokens"]), progress)
    share = result.num_loss_tokens / result.num_tokens
    progress.say(f"  {result.num_tokens:,} tokens, {share:.0%} for the loss; longest sample {result.longest_tokens}")
    return result


def _check_counts(num_in: int, num_out: int) -> None:
    if num_in != num_out:
        raise AssertionError(f"{num_in} samples came in, {num_out} are accounted for")


def _refuse(
    result: TokenizedArtifact, inputs: TokenizeInputs, cfg: TrainingConfig, longest: int, progress: Progress
) -> None:
    """Stop at samples that break a rule, or say how many are left out of which split."""
    data = inputs.dataset
    train, held_out, both = Rejections(), Rejections(), Rejections()
    for row in read_rejected(result.rejected_file):
        both.add(row)
        (held_out if row.is_held_out else train).add(row)
    nothing_left = not result.num_samples or 0 < data.num_eval == result.num_eval_rejected
    if inputs.on_invalid is OnInvalid.error or nothing_left:
        fits = f"training.max_seq_len={longest + 1} (and training.max_tokens_per_gpu at least that), or "
        fix = f"{fits if longest + 1 > cfg.max_seq_len else ''}leave them out: dataset.on_invalid=drop"
        raise both.error(data.num_train + data.num_eval, fix)
    for rejections, name in ((train, "samples"), (held_out, "held-out samples")):
        if rejections:
            counts = ", ".join(f"{count} {rule}" for rule, count in rejections.by_rule.most_common())
            progress.say(f"  {len(rejections)} {name} left out: {counts}")
