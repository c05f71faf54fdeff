"""How a model writes answers to held-out prompts: greedily, or as its own generation settings say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft.adapters.evaluation.answer_cache import key_of
from sft.adapters.evaluation.conversation import Turn
from sft.adapters.evaluation.greedy import answer_greedily
from sft.adapters.evaluation.oom_batches import Budget, in_batches
from sft.chat.template import Renderer


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How answers are written.

    Attributes:
        max_new_tokens: Longest answer.
        is_greedy: Whether each token is the most likely one, whatever ``generation_config.json`` says: it may penalise
            repetition (Qwen2.5-1.5B-Instruct: 1.1), and that is not greedy. Else it decides.
        seed: Of sampled answers.
    """

    max_new_tokens: int
    is_greedy: bool = True
    seed: int = 0


@dataclass
class Cuts:
    """Counts answers that were cut.

    Attributes:
        max_new_tokens: Longest answer.
        num_answers: Of those counted so far.
        num_cut: Which did not end by themselves.
        num_longer: Whose reference is longer, so that it could not be written whole.
    """

    max_new_tokens: int
    num_answers: int = 0
    num_cut: int = 0
    num_longer: int = 0

    def add(self, turns: Sequence[Turn]) -> None:
        """Count answers."""
        self.num_answers += len(turns)
        self.num_cut += sum(turn.is_cut for turn in turns)
        self.num_longer += sum(len(turn.own_ids) > self.max_new_tokens for turn in turns)

    def notes(self, name: str) -> Iterator[str]:
        """Yield a note on what was cut of a held-out set, if anything was."""
        at = f"eval.holdout.max_new_tokens={self.max_new_tokens}"
        if self.num_cut:
            yield f"{name}: {self.num_cut:,} of {self.num_answers:,} answers were cut at {at}, and are scored so"
        if self.num_longer:
            yield f"{name}: {self.num_longer:,} of {self.num_answers:,} references are longer than {at}"


def write_answers(
    turns: Sequence[Turn],
    model: Any,
    renderer: Renderer,
    writing: Writing,
    budget: Budget,
    on_answered: Callable[[Turn], None] = lambda _turn: None,
    on_pass: Callable[[int], None] = lambda _num_tokens: None,
) -> None:
    """Fill in each turn's `written`, up to a token at which the model stops, and whether it was cut before.

    Args:
        turns: What is to be answered.
        model: A causal language model in evaluation mode.
        renderer: Its tokenizer and template.
        writing: How.
        budget: How many at once. A batch that is halved keeps the answers that had ended. A sampled answer is written
            alone, by a seed of its own, so that it does not depend on what is written beside it.
        on_answered: Called with each turn that is written.
        on_pass: Called after each pass with the tokens that the model has read in it.
    """
    tokenizer = renderer.tokenizer
    pad_id = tokenizer.pad_token_id or 0
    stop_ids = frozenset(tokenizer.convert_tokens_to_ids(sorted(renderer.stops)))

    def keep(turn: Turn, answer: list[int]) -> None:
        turn.written = tokenizer.decode(answer, skip_special_tokens=True)
        turn.is_cut = len(answer) == writing.max_new_tokens and answer[-1] not in stop_ids
        on_answered(turn)

    def write(batch: list[Turn]) -> None:
        unwritten = [turn for turn in batch if turn.written is None]
        if not writing.is_greedy:
            for turn in unwritten:
                keep(turn, _sample(model, turn.prompt_ids, stop_ids, pad_id, writing))
                on_pass(len(turn.prompt_ids))
            return
        answer_greedily(
            model,
            [turn.prompt_ids for turn in unwritten],
            stop_ids=stop_ids,
            pad_id=pad_id,
            max_new_tokens=writing.max_new_tokens,
            on_answer=lambda place, answer: keep(unwritten[place], answer),
            on_pass=on_pass,
        )

    for _ in in_batches(turns, lambda turn: len(turn.prompt_ids) + writing.max_new_tokens, write, budget):
        pass


def _sample(model: Any, prompt: Sequence[int], stop_ids: frozenset[int], pad_id: int, writing: Writing) -> list[int]:
    """Return the tokens of one answer, drawn as the model's own generation settings say."""
    import torch

    settings = copy.deepcopy(model.generation_config)
    settings.update(
        max_new_tokens=writing.max_new_tokens, max_length=None, eos_token_id=sorted(stop_ids), pad_token_id=pad_id
    )
    torch.manual_seed(int.from_bytes(key_of("seed", writing.seed, list(prompt))[:7]))
    ids = torch.tensor([list(prompt)], device=model.device)
    with torch.inference_mode():
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    answer: list[int] = written[0, len(prompt) :].tolist()
    return answer
