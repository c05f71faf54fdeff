"""Greedy answers are those of transformers' own generate, token for token, whatever leaves the batch and when."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from sft.adapters.evaluation.greedy import answer_greedily

pytestmark = pytest.mark.slow
VOCABULARY, PAD, MOST = 60, 0, 16


def model_of(kind: str, **settings: Any) -> Any:
    """A small model of random weights; large enough ones that its answers vary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, "initializer_range": 0.3, **shape, **settings})
    return AutoModelForCausalLM.from_config(config).eval()


def prompts(num: int = 7) -> list[list[int]]:
    return [[1 + (7 * row + 3 * place) % (VOCABULARY - 1) for place in range(2 + 3 * row % 11)] for row in range(num)]


def plain(model: Any, prompts: Sequence[Sequence[int]], stop_ids: Collection[int]) -> list[list[int]]:
    """What ``generate`` writes for each prompt alone."""
    import torch
    from transformers import GenerationConfig

    told = copy.deepcopy(model)
    stops = sorted(stop_ids) or None
    told.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=MOST, eos_token_id=stops, pad_token_id=PAD
    )
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        written = told.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        answers.append(written[0, len(prompt) :].tolist())
    return answers


def greedy(model: Any, prompts: Sequence[Sequence[int]], stop_ids: Collection[int]) -> dict[int, list[int]]:
    answers: dict[int, list[int]] = {}
    answer_greedily(
        model,
        prompts,
        stop_ids=stop_ids,
        pad_id=PAD,
        max_new_tokens=MOST,
        on_answer=lambda place, answer: answers.setdefault(place, list(answer)),
    )
    return answers


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 8}),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
        ("gpt_neox", {}),
    ],
)
def test_answers_are_those_of_generate_token_for_token(kind: str, settings: dict[str, Any]) -> None:
    model = model_of(kind, **settings)
    endless = plain(model, prompts(), ())
    stops = {answer[place] for answer, place in zip(endless, (0, 3, 8), strict=False)}
    expected = plain(model, prompts(), stops)
    assert len({len(answer) for answer in expected}) >= 2  # rows leave at different steps
    assert greedy(model, prompts(), stops) == dict(enumerate(expected))


def test_the_pass_after_an_answers_end_is_without_it() -> None:
    model = model_of("llama", num_key_value_heads=2)
    stops = {answer[4] for answer in plain(model, prompts(), ())[:3]}
    sizes: list[int] = []

    def count(_model: Any, _args: Any, arguments: dict[str, Any]) -> None:
        sizes.append(len(arguments["input_ids"]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    read: list[int] = []
    ended: list[tuple[int, int]] = []
    answer_greedily(
        model,
        prompts(),
        stop_ids=stops,
        pad_id=PAD,
        max_new_tokens=MOST,
        on_answer=lambda _, answer: ended.append((len(read), len(answer))),
        on_pass=read.append,
    )
    assert all(num_passes == length for num_passes, length in ended)  # told of at once
    lengths = [length for _, length in ended]
    assert len(lengths) == len(prompts())
    assert sum(sizes) == sum(lengths)
    assert sum(read) == sum(map(len, prompts())) + sum(lengths) - len(lengths)


def test_a_model_whose_state_is_no_key_value_cache_is_left_to_generate() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mamba", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.5
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    same_length = [prompt for prompt in prompts(12) if len(prompt) == 5]
    stops = {plain(model, same_length, ())[0][2]}
    expected = plain(model, same_length, stops)
    assert greedy(model, same_length, stops) == dict(enumerate(expected))
