"""Score conversations with a loaded model and its own chat template.

Every assistant's turn that isn't context (``"weight": 0``) counts, given all that stands before it and terminator
included, exactly as training counts it. On request each is also written greedily, from the very tokens that precede it,
and compared. Conversations are read in windows, so that memory stays bounded, and each answer is kept, so that a killed
try goes on where it was and no other one asks for it again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import aggregate
from sft.adapters.evaluation.answer_cache import AnswerCache, key_of
from sft.adapters.evaluation.conversation import Conversation, Lengths, Turn, render
from sft.adapters.evaluation.oom_batches import Budget, cut, in_batches, is_out_of_memory
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.text_metrics import TextMetrics
from sft.adapters.evaluation.writing import Cuts, Writing, write_answers
from sft.chat.template import Renderer
from sft.chat.turn_tokens import TurnFinder
from sft.errors import StageError

_WINDOW = 4096
"""Conversations that are in memory, sorted by length."""
_TOKENS = {"cpu": 8192, "cuda": 65536}
_LOGITS_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
"""Bounds of one batch: padded tokens, and its float32 logits, tokens x vocabulary x 4 bytes."""

_SMALL_BATCH_TOKENS, _MIN_BATCHES = 256, 8
"""A set makes so many batches, for several processes to share, unless they would be smaller than is fast."""
_SHOWN_CHARACTERS = 400


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
    answers: AnswerCache,
) -> list[dict[str, Any]]:
    """Score a held-out set and write its samples (`samples_file`), a line per assistant's turn.

    Args:
        request: ``name`` of the set; ``file`` with a conversation per line; ``metrics`` that are scored, with what they
            ignore, ``exact_match_ignores``, and the pattern ``extract``; ``writing``, the fields of `Writing` or None
            where no answer is written; ``batch_size`` (None = as memory allows).
        places: Which of them are scored: their places in the file, from 0, ascending.
        model: A causal language model in evaluation mode.
        finder: Of its tokenizer and template.
        out: Where the samples go.
        meter: Counts conversations, and the tokens that the model reads; is told what was cut.
        answers: What the model has answered before; gets what it answers now.

    Returns:
        The fields of a `sft.scores.Score` for each metric.

    Raises:
        DataError: A conversation can't be rendered.
        StageError: A loss is not a number, or one conversation alone is too much for the memory.
    """
    name, metrics = request["name"], request["metrics"]
    compare = TextMetrics(metrics, request["exact_match_ignores"], request["extract"]).compare
    asking = _Asking(model, finder.renderer, request, answers, meter)
    cuts = Cuts(request["writing"]["max_new_tokens"]) if request["writing"] else None
    lengths = Lengths(getattr(model.config.get_text_config(), "max_position_embeddings", None))
    meter.begins(name, len(places))

    def answered() -> Iterator[Conversation]:
        for window in _windows(Path(request["file"]), places):
            conversations = [render(index, row["messages"], finder, row.get("tools")) for index, row in window]
            asking.answer_share(conversations)
            yield from conversations

    def rows() -> Iterator[dict[str, Any]]:
        for one in answered():
            yield {"sample": one.index, "turns": [_turn_row(turn, compare) for turn in one.turns]}
            lengths.add(one)
            if cuts:
                cuts.add(one.turns)

    try:
        if answers.share.index:  # another process makes the scores
            deque(answered(), maxlen=0)
            return []
        scores = aggregate.publish(rows(), name, out / samples_file(name), metrics)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fix = "lower eval.holdout.max_new_tokens, or take a machine with more memory"
        raise StageError(f"{name}: one conversation alone is too much for the memory", fix=fix) from error
    for note in (*lengths.notes(name), *(cuts.notes(name) if cuts else ())):
        meter.note(note)
    return scores


class _Asking:
    """Has a model answer conversations: from what is kept, or by asking it, within what memory allows."""

    def __init__(
        self, model: Any, renderer: Renderer, request: Mapping[str, Any], answers: AnswerCache, meter: ProgressFile
    ) -> None:
        kind, vocabulary = model.device.type, model.config.get_text_config().vocab_size
        size = request["batch_size"]
        self._scored_at_once = Budget(min(_TOKENS[kind], _LOGITS_BYTES[kind] // (4 * vocabulary)), size, meter.note)
        self._written_at_once = Budget(_TOKENS[kind], size, meter.note)
        self._writing = Writing(**request["writing"]) if request["writing"] else None
        self._dealt: Budget | None = None
        self._model, self._renderer, self._answers, self._meter = model, renderer, answers, meter

    def answer_share(self, conversations: Sequence[Conversation]) -> None:
        """Fill in what is asked of each turn; where processes share the work, the first takes over what others answer.

        The batches are the same whatever the number of processes, and so are the scores, to the last digit.
        """
        share, num_tokens = self._answers.share, sum(one.num_tokens for one in conversations)
        tokens = min(self._scored_at_once.tokens, max(_SMALL_BATCH_TOKENS, num_tokens // _MIN_BATCHES))
        if self._dealt is None:
            self._dealt = Budget(tokens, self._scored_at_once.size, self._meter.note)
        self._scored_at_once.tokens = min(self._scored_at_once.tokens, self._dealt.tokens)
        own = share.of(cut(conversations, lambda one: one.num_tokens, self._dealt))
        self._answer(own)
        is_own = {id(one) for one in own}
        others = [one for one in conversations if id(one) not in is_own]
        if others and not share.index:
            self._take_over(others)

    def _take_over(self, conversations: Sequence[Conversation]) -> None:
        turns = [turn for one in conversations for turn in one.turns]
        self._answers.wait_for(map(_key_of_score, turns))
        if self._writing:
            self._answers.wait_for(map(self._key_of_text, turns))
        if not all(self._is_scored(turn) and (not self._writing or self._is_written(turn)) for turn in turns):
            raise KeyError("an answer that was waited for is not there")
        self._meter.add(len(conversations))

    def _answer(self, conversations: Sequence[Conversation]) -> None:
        """Fill in what is asked of each turn."""
        kept, meter = self._answers, self._meter
        unscored = [one for one in conversations if not all(self._is_scored(turn) for turn in one.turns)]
        is_unscored = {id(one) for one in unscored}
        of_turn = {id(turn): one for one in conversations for turn in one.turns} if self._writing else {}
        unwritten = [
            turn for one in conversations for turn in one.turns if self._writing and not self._is_written(turn)
        ]
        kept.num_kept += len(conversations) - len(unscored) + len(of_turn) - len(unwritten)
        waiting = Counter(id(of_turn[id(turn)]) for turn in unwritten)
        if num_known := sum(id(one) not in is_unscored and not waiting[id(one)] for one in conversations):
            meter.add(num_known)
        for batch in in_batches(unscored, lambda one: one.num_tokens, self._score, self._scored_at_once):
            for turn in (turn for one in batch for turn in one.turns):
                kept.add(_key_of_score(turn), [turn.loss, turn.num_correct])
            num_tokens = sum(len(sequence.token_ids) for one in batch for sequence in one.sequences)
            meter.add(sum(not waiting[id(one)] for one in batch), num_tokens)
        if self._writing is None:
            return

        def keep(turn: Turn) -> None:
            kept.add(self._key_of_text(turn), [turn.written, turn.is_cut])
            owner = id(of_turn[id(turn)])
            waiting[owner] -= 1
            meter.add(not waiting[owner])

        rest = self._renderer, self._writing, self._written_at_once
        write_answers(unwritten, self._model, *rest, keep, lambda num_tokens: meter.add(0, num_tokens))

    def _score(self, batch: Sequence[Conversation]) -> None:
        score_loss(batch, self._model, self._renderer.tokenizer.pad_token_id or 0)

    def _is_scored(self, turn: Turn) -> bool:
        """Return whether a turn was scored before; if so, its scores are filled in."""
        key = _key_of_score(turn)
        if key in self._answers:
            turn.loss, turn.num_correct = self._answers.get(key)
        return key in self._answers

    def _is_written(self, turn: Turn) -> bool:
        """Return whether a turn was written before; if so, its text is filled in."""
        key = self._key_of_text(turn)
        if key in self._answers:
            turn.written, turn.is_cut = self._answers.get(key)
        return key in self._answers

    def _key_of_text(self, turn: Turn) -> bytes:
        return key_of("answer", turn.prompt_ids, self._writing and asdict(self._writing), sorted(self._renderer.stops))


def _key_of_score(turn: Turn) -> bytes:
    return key_of("scored", turn.prompt_ids, turn.own_ids)


def _windows(file: Path, places: Collection[int]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield windows of what is scored, each row with its place in the file."""
    wanted = frozenset(places)
    with file.open("rb") as lines:
        rows = ((index, line) for index, line in enumerate(lines) if index in wanted)
        while window := [(index, json.loads(line)) for index, line in itertools.islice(rows, _WINDOW)]:
            yield window


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


def _turn_row(turn: Turn, compare: Callable[[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the file of samples keeps of a turn."""
    row = {
        "turn": turn.number,
        "prompt": turn.prompt,
        "target": turn.target,
        "answer": turn.written,
        "num_tokens": len(turn.places),
        "loss": turn.loss,
        "num_correct": turn.num_correct,
    }
    if turn.written is None:
        return row
    return {**row, "is_cut": turn.is_cut, **compare(turn.target, turn.written)}
