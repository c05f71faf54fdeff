"""Score conversations with a loaded model and its own chat template.

Every assistant's turn that isn't context (``"weight": 0``) counts, given all that stands before it and terminator
included, exactly as training counts it. On request each is also written greedily, from the very tokens that precede it,
and compared. Conversations are read in windows, and what is done lies in a journal, so that memory stays bounded and a
killed try resumes where it was.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import aggregate, text_metrics
from sft.adapters.evaluation.greedy import answer_greedily
from sft.adapters.evaluation.oom_batches import Budget, in_batches, is_out_of_memory
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.sample_log import SampleLog
from sft.chat.loss import answered
from sft.chat.template import Renderer, TemplateError
from sft.chat.turn_tokens import TokenSequence, TurnFinder
from sft.errors import DataError, StageError

_WINDOW = 4096
"""Conversations that are in memory, sorted by length."""
_TOKENS = {"cpu": 8192, "cuda": 65536}
_LOGITS_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
"""Bounds of one batch: padded tokens, and its float32 logits, tokens x vocabulary x 4 bytes."""

_SHOWN_CHARACTERS = 400


@dataclass
class Turn:
    """One assistant's turn.

    Attributes:
        number: Its place among the messages, from 0.
        prompt: Everything before it, with the generation prompt.
        prompt_ids: Its tokens: those of the conversation before `places`.
        target: What it says, as tokens spell it, so that it compares with what the model writes.
        places: Of its tokens in its sequence, terminator included.
        loss: Sum over its tokens, natural logarithm.
        num_correct: Tokens that are the most likely next one.
        written: What the model wrote; None where nothing was generated.
    """

    number: int
    prompt: str
    prompt_ids: list[int]
    target: str
    places: Sequence[int]
    loss: float = math.nan
    num_correct: int = 0
    written: str | None = None


@dataclass
class ScoredSequence:
    """Tokens that go through the model at once, and the turns that are scored in them."""

    token_ids: list[int]
    turns: list[Turn]


@dataclass
class Conversation:
    """A rendered conversation.

    Attributes:
        index: Its place in the evaluation split, from 0.
        sequences: More than one where the template shows a turn otherwise once the conversation goes on.
    """

    index: int
    sequences: list[ScoredSequence]

    @property
    def turns(self) -> list[Turn]:
        """Every turn that is scored, in order."""
        turns = [turn for sequence in self.sequences for turn in sequence.turns]
        return sorted(turns, key=lambda turn: turn.number)

    @property
    def is_answered(self) -> bool:
        """Whether every turn that is scored is also written."""
        return all(turn.written is not None for sequence in self.sequences for turn in sequence.turns)

    @property
    def num_tokens(self) -> int:
        """Tokens that it takes in a batch, padding to its longest sequence included."""
        return len(self.sequences) * max((len(sequence.token_ids) for sequence in self.sequences), default=1)


def samples_file(name: str) -> str:
    """Return the name of the file with a held-out set's samples."""
    return f"samples_{name}.jsonl"


def score(
    request: Mapping[str, Any],
    places: Collection[int],
    model: Any,
    finder: TurnFinder,
    out: Path,
    meter: ProgressFile,
) -> list[dict[str, Any]]:
    """Score a held-out set and write its samples (`samples_file`), a line per assistant's turn.

    Args:
        request: ``name`` of the set; ``file`` with a conversation per line; ``generate``, ``max_new_tokens``,
            ``batch_size`` (None = as memory allows), ``journal``.
        places: Which of them are scored: their places in the file, from 0, ascending.
        model: A causal language model in evaluation mode.
        finder: Of its tokenizer and template.
        out: Where the samples go.
        meter: Counts conversations, and the tokens that the model reads.

    Returns:
        The fields of a `sft.scores.Score` for each metric.

    Raises:
        DataError: A conversation can't be rendered.
        StageError: A loss is not a number, or one conversation alone is too much for the memory.
    """
    kind, vocabulary = model.device.type, model.config.get_text_config().vocab_size
    at_once = Budget(min(_TOKENS[kind], _LOGITS_BYTES[kind] // (4 * vocabulary)), request["batch_size"], meter.note)
    written_at_once = Budget(_TOKENS[kind], request["batch_size"], meter.note)
    compare = text_metrics.comparisons() if request["generate"] else {}
    pad_id = finder.renderer.tokenizer.pad_token_id or 0
    journal = SampleLog(Path(request["journal"]))
    meter.begins(request["name"], len(places), len(journal))

    def keep(conversation: Conversation) -> None:
        journal.add(_row(conversation, compare))
        meter.add(1)

    try:
        for window in _windows(Path(request["file"]), places, journal):
            conversations = [render(index, row["messages"], finder, row.get("tools")) for index, row in window]
            for batch in in_batches(
                conversations, lambda one: one.num_tokens, lambda some: score_loss(some, model, pad_id), at_once
            ):
                meter.add(0, sum(len(sequence.token_ids) for one in batch for sequence in one.sequences))
                if request["generate"]:
                    rest = finder.renderer, request["max_new_tokens"], written_at_once
                    write_answers(batch, model, *rest, keep, lambda num_tokens: meter.add(0, num_tokens))
                else:
                    for conversation in batch:
                        keep(conversation)
        scores = aggregate.publish(journal, request["name"], out / samples_file(request["name"]))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fix = "lower eval.holdout.max_new_tokens, or take a machine with more memory"
        raise StageError(f"{request['name']}: one conversation alone is too much for the memory", fix=fix) from error
    finally:
        journal.close()
    Path(request["journal"]).unlink()
    return scores


def _windows(file: Path, places: Collection[int], journal: SampleLog) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield windows of what is still to be scored, each row with its place in the file."""
    wanted = frozenset(places)
    with file.open("rb") as lines:
        left = ((index, line) for index, line in enumerate(lines) if index in wanted and index not in journal)
        while window := [(index, json.loads(line)) for index, line in itertools.islice(left, _WINDOW)]:
            yield window


def render(index: int, messages: Sequence[dict[str, Any]], finder: TurnFinder, tools: Any = None) -> Conversation:
    """Return one conversation as tokens, with the places of the assistant's turns that are scored.

    Raises:
        DataError: The template can't render it, or its turns can't be told apart.
    """
    try:
        whole = finder.renderer.text(messages, tools)
        shared, own = finder.sequences(messages, whole, tools, answered(messages))
    except TemplateError as error:
        what = str(messages)[:_SHOWN_CHARACTERS]
        raise DataError(
            f"held-out sample {index}: {error}; the conversation: {what}",
            fix="leave it out of the evaluation split, or use a chat template that knows such conversations",
        ) from error
    except DataError as error:
        raise DataError(f"held-out sample {index}: {error.message}", fix=error.fix) from error
    tokenizer = finder.renderer.tokenizer
    return Conversation(index, [_scored(sequence, tokenizer) for sequence in (shared, *own) if sequence.turns])


def _scored(sequence: TokenSequence, tokenizer: Any) -> ScoredSequence:
    ids = sequence.token_ids
    turns = [
        Turn(
            number=turn.number,
            prompt=turn.prompt,
            prompt_ids=ids[: turn.places.start],
            target=tokenizer.decode(ids[turn.places.start : turn.places.stop], skip_special_tokens=True),
            places=turn.places,
        )
        for turn in sequence.turns
    ]
    return ScoredSequence(ids, turns)


def score_loss(batch: Sequence[Conversation], model: Any, pad_id: int) -> None:
    """Fill in each turn's `loss` and `num_correct`.

    Args:
        batch: Conversations that go through the model at once.
        model: A causal language model in evaluation mode.
        pad_id: Token that fills short rows; it is masked and never scored.

    Raises:
        StageError: A loss is not a number.
    """
    import torch

    sequences = [(conversation, sequence) for conversation in batch for sequence in conversation.sequences]
    if not sequences:
        return
    longest = max(len(sequence.token_ids) for _, sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (_, sequence) in enumerate(sequences):
        ids[row, : len(sequence.token_ids)] = torch.tensor(sequence.token_ids)
        mask[row, : len(sequence.token_ids)] = 1
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for row, (conversation, sequence) in enumerate(sequences):
            for turn in sequence.turns:
                _score_turn(conversation.index, sequence.token_ids, turn, logits[row])


def _score_turn(index: int, token_ids: list[int], turn: Turn, logits: Any) -> None:
    import torch

    places = torch.tensor(turn.places, device=logits.device)
    targets = torch.tensor(token_ids, device=logits.device)[places]
    predictions = logits[places - 1].float()
    turn.loss = float(torch.nn.functional.cross_entropy(predictions, targets, reduction="sum"))
    turn.num_correct = int((predictions.argmax(dim=-1) == targets).sum())
    if not math.isfinite(turn.loss):
        raise StageError(
            f"held-out sample {index}: the loss of turn {turn.number + 1} is {turn.loss}; "
            f"the prompt: {turn.prompt[-_SHOWN_CHARACTERS:]}",
            fix="check the model's weights, and the range of a lower precision",
        )


def write_answers(
    conversations: Sequence[Conversation],
    model: Any,
    renderer: Renderer,
    max_new_tokens: int,
    budget: Budget,
    on_answered: Callable[[Conversation], None] = lambda _conversation: None,
    on_pass: Callable[[int], None] = lambda _num_tokens: None,
) -> None:
    """Fill in each turn's `written`, greedily and up to a token at which the model stops.

    Args:
        conversations: Whose turns are to be answered.
        model: A causal language model in evaluation mode. Its generation settings are not used: they may penalise
            repetition (Qwen2.5-1.5B-Instruct: 1.1), and that is not greedy.
        renderer: Its tokenizer and template.
        max_new_tokens: Longest answer.
        budget: How many at once. A batch that is halved keeps the answers that had ended.
        on_answered: Called with each conversation whose last answer is written.
        on_pass: Called after each pass with the tokens that the model has read in it.
    """
    tokenizer = renderer.tokenizer
    stop_ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(renderer.stops)))
    for conversation in conversations:
        if conversation.is_answered:  # none of its turns is scored
            on_answered(conversation)

    def write(batch: list[tuple[Conversation, Turn]]) -> None:
        unwritten = [(conversation, turn) for conversation, turn in batch if turn.written is None]

        def keep(place: int, answer: list[int]) -> None:
            conversation, turn = unwritten[place]
            turn.written = tokenizer.decode(answer, skip_special_tokens=True)
            if conversation.is_answered:
                on_answered(conversation)

        answer_greedily(
            model,
            [turn.prompt_ids for _, turn in unwritten],
            stop_ids=stop_ids,
            pad_id=tokenizer.pad_token_id or 0,
            max_new_tokens=max_new_tokens,
            on_answer=keep,
            on_pass=on_pass,
        )

    turns = [(conversation, turn) for conversation in conversations for turn in conversation.turns]
    for _ in in_batches(turns, lambda entry: len(entry[1].prompt_ids) + max_new_tokens, write, budget):
        pass


def _row(conversation: Conversation, compare: Mapping[str, text_metrics.Compare]) -> dict[str, Any]:
    """Return what the journal keeps of a conversation."""
    return {"sample": conversation.index, "turns": [_turn_row(turn, compare) for turn in conversation.turns]}


def _turn_row(turn: Turn, compare: Mapping[str, text_metrics.Compare]) -> dict[str, Any]:
    row = {
        "turn": turn.number,
        "prompt": turn.prompt,
        "target": turn.target,
        "answer": turn.written,
        "num_tokens": len(turn.places),
        "loss": turn.loss,
        "num_correct": turn.num_correct,
    }
    written = turn.written or ""
    return row | {name: metric(turn.target, written) for name, metric in compare.items()}
