"""The tokenize stage: training samples in, token ids and loss labels out, once per data, tokenizer and loss mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, ROWS_NAME, DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.chat.rejected import Rejections, read_rejected
from sft.config.schema import OnInvalid, OnTooLong, OnUnrendered, TrainingConfig
from sft.errors import DataError
from sft.planning.mixing import Mix
from sft.progress import Progress
from sft.stages import mixing
from sft.stages.preview import SHOWN

_UNRENDERED, _TOO_LONG = "unrendered", "too-long"
_SHORTENED = (OnTooLong.truncate, OnTooLong.split_turns)


@dataclass(frozen=True, kw_only=True)
class TokenizeInputs:
    """What the tokenize stage takes.

    Attributes:
        on_invalid: `dataset.on_invalid`, for the rules that need the tokenizer.
        on_unrendered: `dataset.on_unrendered`.
        mix: How the samples of `dataset.sources` are mixed; None without such.
        is_validated: Whether the held-out rows are labelled as those of training are, because their loss is measured
            while a model is trained; then the training split is not looked at.
    """

    dataset: DatasetArtifact
    model: ModelArtifact
    on_invalid: OnInvalid = OnInvalid.error
    on_unrendered: OnUnrendered = OnUnrendered.error
    mix: Mix | None = None
    is_validated: bool = False

    @property
    def labelled(self) -> tuple[Path, int]:
        """File and number of the samples that are labelled."""
        data = self.dataset
        return (data.eval_file, data.num_eval) if self.is_validated else (data.train_file, data.num_train)

    @property
    def num_checked(self) -> int:
        """Number of held-out samples that are checked, and not labelled."""
        return 0 if self.is_validated else self.dataset.num_eval


def tokenize(cfg: TrainingConfig, inputs: TokenizeInputs, out: Path, progress: Progress) -> TokenizedArtifact:
    """Render both splits with the model's chat template, and label the tokens of training that count for the loss.

    A dataset may be a held-out set alone: then its rows are checked, and nothing is labelled unless they are validated.
    Of such a row that is too long no part is taken, as of any held-out one.

    Args:
        cfg: The training settings, of which `max_seq_len`, `on_too_long`, `train_on` and `train_on_reasoning` count.
        inputs: Dataset and base model.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        DataError: Samples of either split are too long, hold special tokens, or the template can't render them, or not
            all of them; or a set that is to be validated has no token that counts for the loss.
        StageError: No sample can be trained with this chat template.
    """
    (labelled, num_labelled), num_checked = inputs.labelled, inputs.num_checked
    too_long = cfg.on_too_long.value if cfg.on_too_long in _SHORTENED and not inputs.is_validated else "refuse"
    progress.update(f"{num_labelled + num_checked:,} samples")
    counts = run_module(
        "sft.adapters.instructlab.loss_masks",
        {
            "train_file": str(labelled) if num_labelled else None,
            "eval_file": str(inputs.dataset.eval_file) if num_checked else None,
            "target": str(out / "data.jsonl"),
            "rows": str(out / ROWS_NAME),
            "rejected": str(out / "rejected.jsonl"),
            "shown": str(out / LOGS_NAME / SHOWN),
            "settings": {
                "model_dir": str(inputs.model.model_dir),
                "max_seq_len": cfg.max_seq_len,
                "train_on": cfg.train_on.value,
                "train_on_reasoning": cfg.train_on_reasoning,
                "keep_unrendered": inputs.on_unrendered is OnUnrendered.warn,
                "on_too_long": too_long,
            },
        },
        folder=out / LOGS_NAME,
        what="tokenizing",
        env={"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1" if inputs.model.trust_remote_code else "0"},
    )
    train, held_out = counts["train"], counts["eval"]
    num_folded, num_reasoned, examples = (train.pop(name) for name in ("num_folded", "num_reasoned", "examples"))
    result = TokenizedArtifact(root=out, **train, num_eval_rejected=held_out["num_rejected"])
    _check_counts(num_labelled, result.num_rows + result.num_rejected)
    _check_counts(num_checked, held_out["num_rows"] + held_out["num_rejected"])
    if inputs.is_validated and not result.num_rows:
        raise _without_a_token(result)
    if result.num_rejected or result.num_eval_rejected:
        _refuse(result, inputs, cfg, max(result.longest_tokens, held_out["longest_tokens"]), progress)
    _say_how_rendered(result, num_folded, examples, progress)
    if result.num_rows and not (cfg.train_on_reasoning or num_reasoned):
        text = "no row has reasoning (reasoning_content, or a content up to </think>), so nothing was left out"
        progress.say(f"  training.train_on_reasoning=false: {text}")
    for field, count in held_out["unrendered"].items():
        progress.say(f"  held-out rows: {field} in {count:,}, which the chat template does not render")
    if inputs.mix and num_labelled:
        result = _mixed(result, inputs.mix, progress)
    if num_labelled:
        share, longest = result.num_loss_tokens / result.num_tokens, result.longest_tokens
        progress.say(f"  {result.num_tokens:,} tokens, {share:.0%} for the loss; longest sample {longest}")
    return result


def _mixed(result: TokenizedArtifact, how: Mix, progress: Progress) -> TokenizedArtifact:
    """Mix the samples of several sources, and say how often each is there."""
    progress.update("mixing the sources")
    sources = mixing.mix(result.data_file, how, result.rows_file)
    mixed = replace(
        result,
        num_samples=sum(source.used for source in sources.values()),
        num_tokens=sum(source.tokens for source in sources.values()),
        num_loss_tokens=sum(source.loss_tokens for source in sources.values()),
        sources={name: asdict(source) for name, source in sources.items()},
    )
    for line in mixed.mix_lines:
        progress.say(f"  {line}")
    return mixed


def _check_counts(num_in: int, num_out: int) -> None:
    if num_in != num_out:
        raise AssertionError(f"{num_in} samples came in, {num_out} are accounted for")


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
    if result.num_truncated:
        of = f"{result.num_truncated:,} of {result.num_rows:,} conversations"
        progress.say(f"  too long: {of} end after the last turn that fits, {result.num_cut_tokens:,} tokens less")
    if result.num_divided:
        of = f"{result.num_divided:,} of {result.num_rows:,} rows are {result.num_parts:,} parts"
        lost = f", and {result.num_lost_parts:,} parts that don't fit or don't train are left out"
        progress.say(f"  too long: {of}{lost if result.num_lost_parts else ''}")
    num_conversations = result.num_rows - result.num_divided + result.num_parts
    if result.num_samples > num_conversations:
        progress.say(
            f"  {num_conversations:,} rows became {result.num_samples:,} samples, because the chat template shows a "
            "turn otherwise once the conversation goes on; each is trained as the model writes it"
        )


def _refuse(
    result: TokenizedArtifact, inputs: TokenizeInputs, cfg: TrainingConfig, longest: int, progress: Progress
) -> None:
    """Stop at rows that break a rule, or say how many are left out of which split.

    Raises:
        DataError: A setting says that such rows are errors, or no row of a split is left.
    """
    (_, num_labelled), num_checked = inputs.labelled, inputs.num_checked
    train, held_out, both = Rejections(), Rejections(), Rejections()
    for row in read_rejected(result.rejected_file):
        both.add(row)
        (held_out if row.is_held_out else train).add(row)
    num_unrendered, num_too_long = both.by_rule[_UNRENDERED], both.by_rule[_TOO_LONG]
    by_invalid = len(both) - num_unrendered - (0 if cfg.on_too_long is None else num_too_long)
    is_error = inputs.on_invalid is OnInvalid.error and by_invalid > 0
    is_error |= cfg.on_too_long is OnTooLong.error and num_too_long > 0
    is_error |= inputs.on_unrendered is OnUnrendered.error and num_unrendered > 0
    nothing_left = 0 < num_labelled == result.num_rejected or 0 < num_checked == result.num_eval_rejected
    if is_error or nothing_left:
        raise both.error(num_labelled + num_checked, _fix(longest, cfg, num_unrendered, len(both)))
    for rejections, name in ((train, "samples"), (held_out, "held-out samples")):
        if rejections:
            progress.say(f"  {len(rejections)} {name} left out: {rejections.counts}")


def _without_a_token(result: TokenizedArtifact) -> DataError:
    rejections = Rejections()
    for row in read_rejected(result.rejected_file):
        rejections.add(row)
    why = rejections.error(len(rejections), "").message if rejections else "it has no row"
    return DataError(
        f"one of training.validation_sets without a token that counts for the loss: {why}",
        fix="take the set out of training.validation_sets, or give it rows with a turn that trains",
    )


def _fix(longest: int, cfg: TrainingConfig, num_unrendered: int, num_rejected: int) -> str:
    fixes = []
    if num_unrendered:
        fixes.append("train without that part (dataset.on_unrendered=warn) or without those rows (=drop_row)")
    if longest >= cfg.max_seq_len:
        fixes.append(f"training.max_seq_len={longest + 1} (and training.max_tokens_per_gpu at least that)")
        fixes.append("what fits of them: training.on_too_long=truncate or split_turns")
    if num_rejected > num_unrendered:
        fixes.append("leave them out: dataset.on_invalid=drop")
    return ", or ".join(fixes)
