"""Write answers greedily, a batch at a time: what is finished leaves the batch, so that no row waits for the longest.

transformers' ``generate`` carries every row to the end of the longest answer. The tokens are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any


def answer_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    on_answer: Callable[[int, list[int]], None],
    on_pass: Callable[[int], None] = lambda _num_tokens: None,
) -> None:
    """Write the most likely next tokens after each prompt, up to and including one of `stop_ids`.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids, one list each.
        stop_ids: Tokens at which an answer ends.
        pad_id: Token that fills short prompts on the left; it is masked.
        max_new_tokens: Longest answer.
        on_answer: Called with a prompt's place and its answer's token ids as soon as the answer has ended.
        on_pass: Called after each pass with the tokens that the model has read in it.
    """
    import torch

    longest = max(map(len, prompts))
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    ids = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    arguments = frozenset(inspect.signature(model.forward).parameters)
    if "past_key_values" not in arguments:
        written = _by_generate(model, ids, mask, stop_ids, pad_id, max_new_tokens)
        on_pass(int(mask.sum()) + sum(len(answer) - 1 for answer in written))
        for place, answer in enumerate(written):
            on_answer(place, answer)
        return
    fixed = {"use_cache": True} | ({"logits_to_keep": 1} if "logits_to_keep" in arguments else {})
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    rows, cache, num_read = list(range(len(prompts))), None, int(mask.sum())
    with torch.inference_mode():
        while rows:
            placed = {"position_ids": positions} if "position_ids" in arguments else {}
            output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, **placed, **fixed)
            cache = output.past_key_values
            tokens = output.logits[:, -1].float().argmax(dim=-1)
            on_pass(num_read)
            staying = []
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                answers[row].append(token)
                if token in stop_ids or len(answers[row]) == max_new_tokens:
                    on_answer(row, answers[row])
                else:
                    staying.append(place)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            if len(staying) < len(rows):
                chosen = torch.tensor(staying, dtype=torch.long, device=model.device)
                ids, positions, mask = ids[chosen], positions[chosen], mask[chosen]
                cache.reorder_cache(chosen)
                rows = [rows[place] for place in staying]
            num_read = len(rows)


def _by_generate(
    model: Any, ids: Any, mask: Any, stop_ids: Collection[int], pad_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Return what transformers writes with a model that keeps no keys and values, such as Mamba."""
    import torch
    from transformers import GenerationConfig

    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(stop_ids) or None, pad_token_id=pad_id
    )
    with torch.inference_mode():
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
    return [_cut(row, stop_ids) for row in written[:, ids.shape[1] :].tolist()]


def _cut(tokens: list[int], stop_ids: Collection[int]) -> list[int]:
    """Return an answer up to and including its stop; the rest is padding."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end]
