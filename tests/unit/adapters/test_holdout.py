"""Held-out scores equal what plain transformers gives, whatever the batch; errors show the sample."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from sft.adapters import holdout
from sft.artifacts import ModelArtifact
from sft.errors import DataError, StageError

SYSTEM = {"role": "system", "content": "spell digits"}
CONVERSATIONS = [
    [{"role": "user", "content": "12"}, {"role": "assistant", "content": "one two"}],
    [SYSTEM, {"role": "user", "content": "90817"}, {"role": "assistant", "content": "nine zero eight one seven"}],
    [
        {"role": "user", "content": "5"},
        {"role": "assistant", "content": "five"},
        {"role": "user", "content": "and 66"},
        {"role": "assistant", "content": "six six"},
    ],
]


@pytest.fixture(scope="module")
def loaded(tiny_model: ModelArtifact) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model.model_dir).eval()
    return model, AutoTokenizer.from_pretrained(tiny_model.model_dir)


def scored(loaded: tuple[Any, Any], batch_size: int | None) -> list[holdout.Answer]:
    model, tokenizer = loaded
    answers = [holdout.render(index, messages, tokenizer) for index, messages in enumerate(CONVERSATIONS)]
    assert list(holdout.score_loss(answers, model, tokenizer.pad_token_id, batch_size))[-1] == len(answers)
    return answers


def plain_loss(loaded: tuple[Any, Any], messages: list[dict[str, str]]) -> tuple[float, int]:
    """Sum over the answers' tokens by transformers' own loss, from the rendered text alone."""
    import torch

    model, tokenizer = loaded
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", add_special_tokens=False)
    labels = torch.full_like(encoded["input_ids"], -100)
    for message in messages:
        if message["role"] == "assistant":
            turn = f"{message['content']}<|im_end|>"
            begin = text.index(f"assistant\n{turn}") + len("assistant\n")
            for place, (left, right) in enumerate(encoded["offset_mapping"][0].tolist()):
                if begin <= left < right <= begin + len(turn):
                    labels[0, place] = encoded["input_ids"][0, place]
    count = int((labels != -100).sum())
    with torch.inference_mode():
        mean = model(input_ids=encoded["input_ids"], labels=labels).loss
    return float(mean) * count, count


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_loss_equals_plain_transformers_on_the_rendered_text(loaded: tuple[Any, Any], batch_size: int | None) -> None:
    for answer, messages in zip(scored(loaded, batch_size), CONVERSATIONS, strict=True):
        loss, count = plain_loss(loaded, messages)
        assert answer.num_tokens == count
        assert answer.loss / count == pytest.approx(loss / count, abs=1e-5)


def test_every_assistant_turn_counts_with_its_terminator_and_nothing_else(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    answer = holdout.render(0, CONVERSATIONS[2], tokenizer)
    assert [tokenizer.decode(answer.token_ids[a:b]) for a, b in answer.spans] == ["five<|im_end|>", "six six<|im_end|>"]


def test_a_template_that_renders_the_last_turn_differently_moves_no_span(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    usual = tokenizer.chat_template
    tokenizer.chat_template = (  # as Qwen3 does with its empty thought
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}six seven eight nine zero\n{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    try:
        answer = holdout.render(0, [*CONVERSATIONS[0], {"role": "user", "content": ""}, CONVERSATIONS[0][1]], tokenizer)
    finally:
        tokenizer.chat_template = usual
    thought = "six seven eight nine zero\none two"
    assert [tokenizer.decode(answer.token_ids[a:b]) for a, b in answer.spans] == [
        "one two<|im_end|>",
        f"{thought}<|im_end|>",
    ]
    assert answer.target == thought


def test_a_template_without_the_tokenizers_terminator_is_refused(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    usual = tokenizer.eos_token
    tokenizer.eos_token = "<|unused|>"
    try:
        with pytest.raises(DataError, match="held-out sample 5: the chat template does not end turn 2 with"):
            holdout.render(5, CONVERSATIONS[0], tokenizer)
    finally:
        tokenizer.eos_token = usual


def test_answers_are_greedy_whatever_the_model_folder_says(loaded: tuple[Any, Any]) -> None:
    import copy

    from transformers import GenerationConfig

    model, tokenizer = loaded
    told = copy.deepcopy(model)
    told.generation_config = GenerationConfig(do_sample=True, temperature=2.0, repetition_penalty=5.0)
    plain, answers = scored(loaded, None), scored(loaded, None)
    list(holdout.write_answers(plain, copy.deepcopy(model), tokenizer, 12, None))
    list(holdout.write_answers(answers, told, tokenizer, 12, None))
    assert [answer.written for answer in answers] == [answer.written for answer in plain]


def test_answers_do_not_depend_on_what_else_is_in_the_batch(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    together, alone = scored(loaded, None), scored(loaded, None)
    list(holdout.write_answers(together, model, tokenizer, 8, None))
    list(holdout.write_answers(alone, model, tokenizer, 8, 1))
    assert [answer.written for answer in together] == [answer.written for answer in alone]
    assert all(answer.written for answer in together)


def test_an_answer_is_exact_but_for_white_space_around_it(loaded: tuple[Any, Any]) -> None:
    answer = holdout.render(0, CONVERSATIONS[0], loaded[1])
    answer.written = " one two\n"
    assert answer.exact
    answer.written = "one  two"
    assert not answer.exact


def test_error_of_a_plain_mean_is_the_textbook_one(loaded: tuple[Any, Any]) -> None:
    answers = scored(loaded, None)
    for answer, text in zip(answers, ["one two", "no", "six six"], strict=True):
        answer.written = text
    mean, error = holdout.exact_match(answers)
    assert mean == pytest.approx(2 / 3)
    assert error == pytest.approx(statistics.stdev([1, 0, 1]) / math.sqrt(3))
    assert holdout.exact_match(answers[:1]) == (1.0, None)


def test_a_template_that_rewrites_earlier_turns_is_refused(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    usual = tokenizer.chat_template
    tokenizer.chat_template = "{{ messages|length }}" + usual
    try:
        with pytest.raises(DataError, match="held-out sample 7: the chat template renders turn 2 differently"):
            holdout.render(7, CONVERSATIONS[2], tokenizer)
        tokenizer.chat_template = "{{ raise_exception('no system role') }}"
        with pytest.raises(DataError, match="held-out sample 3: the chat template refuses it: no system role"):
            holdout.render(3, CONVERSATIONS[1], tokenizer)
    finally:
        tokenizer.chat_template = usual


def test_a_loss_that_is_not_a_number_fails_and_shows_the_prompt(loaded: tuple[Any, Any]) -> None:
    import copy

    model, tokenizer = loaded
    broken = copy.deepcopy(model)
    broken.model.norm.weight.data.fill_(math.nan)
    answer = holdout.render(4, CONVERSATIONS[0], tokenizer)
    with pytest.raises(StageError, match="held-out sample 4: the loss is nan"):
        list(holdout.score_loss([answer], broken, tokenizer.pad_token_id, None))
