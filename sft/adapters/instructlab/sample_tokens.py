"""Token ids and loss labels of one sample at a time, or why it has none: a tokenizer at work, and what it counted.

Files and processes are `loss_masks`' business.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sft.chat.loss import NO_LOSS, Row, TrainOn, rows, trained
from sft.chat.raw_text import is_text, pieces
from sft.chat.reasoning import reasoning_of
from sft.chat.special_tokens import find_special_token, special_tokens, stops
from sft.chat.template import SYSTEM_ROLES, Message, Renderer, TemplateError
from sft.chat.too_long import OnTooLong, divided
from sft.chat.turn_tokens import TurnFinder
from sft.chat.unrendered import unrendered
from sft.errors import DataError

UNRENDERED = "unrendered"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What determines tokens and labels besides the rows.

    Attributes:
        model_dir: The model's folder, with its tokenizer and chat template.
        max_seq_len: A sequence of so many tokens or more is too long.
        on_too_long: What becomes of a conversation with such a sequence.
        keep_unrendered: Whether a row is kept of which the template doesn't render all.
    """

    model_dir: str
    max_seq_len: int
    train_on: TrainOn = "all_turns"
    train_on_reasoning: bool = True
    keep_unrendered: bool = False
    on_too_long: OnTooLong = "refuse"


@dataclass
class Counts:
    """What a part holds. Rejected rows lie in ``<target>.rejected``, their lines counted within the part.

    Attributes:
        num_rows: Rows that are trained, each as one sample or more.
        num_truncated: Rows that were cut at the end of a turn, and `num_cut_tokens` less.
        num_divided: Rows that were divided into `num_parts`, besides `num_lost_parts` that don't fit or train.
        num_folded: Rows whose system turn was put before the first user's text.
        num_reasoned: Rows whose reasoning was left out of the loss.
        unrendered: Kept rows with a field that the template doesn't render, by field.
        examples: One of them each.
    """

    num_rows: int = 0
    num_samples: int = 0
    num_rejected: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    longest_tokens: int = 0
    num_truncated: int = 0
    num_cut_tokens: int = 0
    num_divided: int = 0
    num_parts: int = 0
    num_lost_parts: int = 0
    num_folded: int = 0
    num_reasoned: int = 0
    unrendered: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Add the counts of a later part."""
        for name, value in asdict(other).items():
            if isinstance(value, int) and name != "longest_tokens":
                setattr(self, name, getattr(self, name) + value)
        self.longest_tokens = max(self.longest_tokens, other.longest_tokens)
        for kind, count in other.unrendered.items():
            self.unrendered[kind] = self.unrendered.get(kind, 0) + count
            self.examples.setdefault(kind, other.examples[kind])


class Refused(Exception):
    """A row can't be trained: its rule, what was found, and its tokens as far as they were counted."""

    def __init__(self, rule: str, found: str, num_tokens: int = 0) -> None:
        super().__init__(rule)
        self.rule, self.found, self.num_tokens = rule, found, num_tokens


def renderer(model_dir: str) -> Renderer:
    """Return the tokenizer of a model folder, with the tokens at which the model stops.

    Raises:
        DataError: It has no fast version, or its template doesn't end in time.
    """
    from transformers import AutoTokenizer

    trust = os.environ.get("TRUST_REMOTE_CODE") == "1"
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust)
    if not tokenizer.is_fast:
        raise DataError(
            f"{model_dir}: its tokenizer has no fast version, so it is not known which characters a token covers",
            fix="take a model with a tokenizer.json",
        )
    return Renderer(tokenizer, stops(tokenizer, Path(model_dir)))


class Tokenizing:
    """A tokenizer at work on rows, and the counts of what it has done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._renderer = renderer(settings.model_dir)
        self._finder = TurnFinder(self._renderer)
        controls = self._renderer.stops | self._renderer.controls()
        self._special = special_tokens(self._renderer.tokenizer, controls)
        self.counts = Counts()

    @property
    def tokenizer(self) -> Any:
        return self._renderer.tokenizer

    def rows(self, sample: Mapping[str, Any]) -> list[Row]:
        """Return tokens and labels of a sample.

        Raises:
            Refused: It can't be trained.
            DataError: No sample can be trained with this template.
        """
        messages, tools, settings = sample["messages"], sample.get("tools"), self._settings
        if found := find_special_token(sample, self._special):
            raise Refused("special-token", found)
        if is_text(sample):
            return self._text_rows(messages[0]["content"])
        try:
            whole = self._renderer.text(messages, tools)
            self._check_unrendered(messages, whole, tools)
            made = self._made(messages, whole, tools)
            longest = _longest(made)
            if longest >= settings.max_seq_len:
                made = self._shortened(messages, whole, tools, made)
        except TemplateError as error:
            raise Refused("template-error", str(error)) from error
        if _num_loss_tokens(made) == 0:
            raise Refused("nothing-for-the-loss", self._why_nothing(messages), longest)
        return made

    def _text_rows(self, text: str) -> list[Row]:
        """Return a raw text's pieces, with the tokenizer's own first token, if it has one, and a last one that ends it.

        Raises:
            DataError: The tokenizer has no token that ends a text, or a piece would hold none to predict.
            Refused: The text has no token to predict.
        """
        tokenizer, longest = self._renderer.tokenizer, self._settings.max_seq_len - 1
        if tokenizer.eos_token_id is None:
            raise DataError("dataset.format=text: the tokenizer has no eos_token, with which a document ends")
        if longest < 2:
            message = "dataset.format=text: of a piece's tokens the first is context, so that one more is needed"
            raise DataError(message, fix="training.max_seq_len=3 or more")
        token_ids = list(tokenizer(text)["input_ids"])
        if token_ids[-1:] != [tokenizer.eos_token_id]:
            token_ids.append(tokenizer.eos_token_id)
        if len(token_ids) < 2:
            raise Refused("nothing-for-the-loss", "the text has no token but the one that ends it", len(token_ids))
        made = pieces(token_ids, longest)
        self.counts.num_divided += len(made) > 1
        self.counts.num_parts += len(made) if len(made) > 1 else 0
        return made

    def _made(self, messages: Sequence[Message], whole: str, tools: Any, longest: int | None = None) -> list[Row]:
        settings = self._settings
        return rows(
            self._finder,
            messages,
            whole,
            tools,
            train_on=settings.train_on,
            train_on_reasoning=settings.train_on_reasoning,
            longest=longest,
        )

    def _shortened(self, messages: list[dict[str, Any]], whole: str, tools: Any, made: list[Row]) -> list[Row]:
        """Return what is trained of a conversation that is too long, and count it.

        Raises:
            Refused: Such rows are refused, or nothing of it fits.
            TemplateError: A part can't be rendered.
        """
        settings, counts = self._settings, self.counts
        too_long = f"{_longest(made)} tokens, training.max_seq_len={settings.max_seq_len}"
        if settings.on_too_long == "refuse":
            raise Refused("too-long", too_long, _longest(made))
        if settings.on_too_long == "truncate":
            kept = self._made(messages, whole, tools, settings.max_seq_len - 1)
            if not _num_loss_tokens(kept):
                raise Refused("too-long", f"{too_long}, and no turn that trains ends before", _longest(made))
            counts.num_truncated += 1
            counts.num_cut_tokens += _num_tokens(made) - _num_tokens(kept)
            return kept
        kept, num_parts, num_lost = [], 0, 0
        for part in divided(messages, lambda part: _longest(self._rendered(part, tools)), settings.max_seq_len - 1):
            of_part = self._rendered(part, tools)
            if _num_loss_tokens(of_part) and _longest(of_part) < settings.max_seq_len:
                num_parts += 1
                kept += of_part
            else:
                num_lost += 1
        if not kept:
            raise Refused("too-long", f"{too_long}, and so is each exchange that trains", _longest(made))
        counts.num_divided += 1
        counts.num_parts += num_parts
        counts.num_lost_parts += num_lost
        return kept

    def _rendered(self, messages: Sequence[Message], tools: Any) -> list[Row]:
        return self._made(messages, self._renderer.text(messages, tools), tools)

    def _check_unrendered(self, messages: list[dict[str, Any]], whole: str, tools: Any) -> None:
        """Count what the template doesn't render, or refuse the row for it."""
        settings = self._settings
        numbers = trained(messages, settings.train_on)
        where = {"in_whole": numbers} if settings.train_on == "everything" else {"as_last": numbers}
        lost = dict(unrendered(self._renderer, messages, whole, tools, **where))
        if lost and not settings.keep_unrendered:
            raise Refused(UNRENDERED, "; ".join(lost.values()))
        for kind, example in lost.items():
            self.counts.unrendered[kind] = self.counts.unrendered.get(kind, 0) + 1
            self.counts.examples.setdefault(kind, example)

    def _why_nothing(self, messages: list[dict[str, Any]]) -> str:
        if not trained(messages, self._settings.train_on):
            return "every assistant turn has weight 0"
        return "the chat template leaves no token to count"

    def count(self, sample: Mapping[str, Any], made: list[Row]) -> None:
        """Count a row that is trained."""
        counts = self.counts
        counts.num_rows += 1
        counts.num_samples += len(made)
        counts.num_folded += self._renderer.folds_system and sample["messages"][0]["role"] in SYSTEM_ROLES
        if not self._settings.train_on_reasoning:
            messages = sample["messages"]
            counts.num_reasoned += any(reasoning_of(messages[n]) for n in trained(messages, self._settings.train_on))
        counts.num_tokens += _num_tokens(made)
        counts.num_loss_tokens += _num_loss_tokens(made)
        counts.longest_tokens = max(counts.longest_tokens, _longest(made))


def _longest(made: Iterable[Row]) -> int:
    return max((row["len"] for row in made), default=0)


def _num_tokens(made: Iterable[Row]) -> int:
    return sum(row["len"] for row in made)


def _num_loss_tokens(made: Iterable[Row]) -> int:
    return sum(row["len"] - row["labels"].count(NO_LOSS) for row in made)
