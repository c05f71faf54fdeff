"""Which tokens count, token by token, for each choice of `training.train_on` and each weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.chat.loss import NO_LOSS, rows
from sft.chat.template import Renderer, TemplateError
from sft.chat.turn_tokens import TurnFinder
from tests.support.templates import CHAT, PROMPT, TURNS, counted, loss_rows, texts, with_template

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
REASONS = "('<think>\n' + m.reasoning_content + '\n</think>\n\n' if m.reasoning_content else '') + m.content"
CONTEXT: list[dict[str, Any]] = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]


@pytest.fixture
def rendering(tiny_model: ModelArtifact, tmp_path: Path) -> Renderer:
    return with_template(TURNS.replace("BODY", REASONS) + PROMPT, tiny_model, tmp_path)


def test_the_last_turn_alone_counts(rendering: Renderer) -> None:
    assert counted(rendering, CHAT, train_on="last_turn") == ["three<|im_end|>"]


def test_a_turn_of_weight_0_is_context_with_its_terminator(rendering: Renderer) -> None:
    [row] = loss_rows(rendering, CONTEXT)
    [plain] = loss_rows(rendering, CHAT)
    assert row["input_ids"] == plain["input_ids"]
    assert texts(rendering, row) == ["three<|im_end|>"]
    assert counted(rendering, [{**message, "weight": 1} for message in CHAT]) == texts(rendering, plain)


def test_the_last_turn_is_the_last_one_that_is_not_context(rendering: Renderer) -> None:
    assert counted(rendering, [*CHAT[:3], {**CHAT[3], "weight": 0}], train_on="last_turn") == [" four\n<|im_end|>"]


def test_everything_is_every_token_but_the_first(rendering: Renderer) -> None:
    [row] = loss_rows(rendering, CHAT, train_on="everything")
    assert row["labels"] == [NO_LOSS, *row["input_ids"][1:]]
    assert rendering.tokenizer.decode(row["input_ids"]) == rendering.text(CHAT)


def test_everything_leaves_out_context_turns_and_nothing_more(rendering: Renderer) -> None:
    [row] = loss_rows(rendering, CONTEXT, train_on="everything")
    left_out = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == NO_LOSS]
    assert rendering.tokenizer.decode(left_out) == "<|im_start|> four\n<|im_end|>"


def test_everything_can_not_leave_out_a_users_turn(rendering: Renderer) -> None:
    messages: list[dict[str, Any]] = [{**CHAT[0], "weight": 0}, *CHAT[1:]]
    with pytest.raises(TemplateError, match="turn 1 has weight 0 and is not the assistant's"):
        counted(rendering, messages, train_on="everything")
    assert counted(rendering, messages) == counted(rendering, CHAT)  # where only answers count it says nothing new


@pytest.mark.parametrize("train_on", ["all_turns", "last_turn", "everything"])
def test_without_reasoning_its_text_carries_no_loss_and_its_marks_do(train_on: Any, rendering: Renderer) -> None:
    messages = [CHAT[0], {"role": "assistant", "content": "four", "reasoning_content": "add them up"}]
    [row] = loss_rows(rendering, messages, train_on=train_on, train_on_reasoning=False)
    skipped = "add them up"
    labelled = "".join(texts(rendering, row)).rstrip("\n")
    assert labelled.endswith("<think>\n\n</think>\n\nfour<|im_end|>")
    assert skipped not in labelled
    with_it = "".join(counted(rendering, messages, train_on=train_on)).rstrip("\n")
    assert with_it.endswith("<think>\nadd them up\n</think>\n\nfour<|im_end|>")


def test_reasoning_inside_the_content_is_reasoning(rendering: Renderer) -> None:
    inline = [CHAT[0], {"role": "assistant", "content": "<think>\nadd them up\n</think>\n\nfour"}]
    apart = [CHAT[0], {"role": "assistant", "content": "four", "reasoning_content": "add them up"}]
    first, second = (loss_rows(rendering, messages, train_on_reasoning=False) for messages in (inline, apart))
    assert first == second


def test_reasoning_that_a_template_rewrites_can_not_be_left_out(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    body = REASONS.replace("m.reasoning_content +", "m.reasoning_content | replace(' ', '  ') +")
    rendering = with_template(TURNS.replace("BODY", body) + PROMPT, tiny_model, tmp_path)
    messages = [CHAT[0], {"role": "assistant", "content": "four", "reasoning_content": "add them up"}]
    assert counted(rendering, messages) == ["<think>\nadd  them  up\n</think>\n\nfour<|im_end|>"]
    with pytest.raises(TemplateError, match="rewrites the reasoning of turn 2"):
        counted(rendering, messages, train_on_reasoning=False)


def test_a_conversation_of_context_turns_gives_no_row(rendering: Renderer) -> None:
    messages = [{**message, "weight": 0} for message in CHAT]
    assert rows(TurnFinder(rendering), messages, rendering.text(messages)) == []


INLINE = "REASON two and two\n</think>\n\nfour"


def test_reasoning_whose_first_mark_the_prompt_has_is_left_out(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    opened = PROMPT.replace("assistant\n", "assistant\n<think>\n")
    body = "('<think>\n' if m.role == 'assistant' else '') + m.content"
    rendering = with_template(TURNS.replace("BODY", body) + opened, tiny_model, tmp_path)
    messages = [CHAT[0], {"role": "assistant", "content": INLINE}]
    assert "".join(counted(rendering, messages, train_on_reasoning=False)) == "\n</think>\n\nfour<|im_end|>"
    assert "REASON" in "".join(counted(rendering, messages))


def test_a_template_that_adds_marks_to_a_content_with_its_own_is_refused(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    """It would teach an empty thought, the thought as an answer, and a stray mark."""
    body = "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') + m.content"
    rendering = with_template(TURNS.replace("BODY", body) + PROMPT, tiny_model, tmp_path)
    with pytest.raises(TemplateError, match="write the reasoning as reasoning_content"):
        counted(rendering, [CHAT[0], {"role": "assistant", "content": INLINE}])
    assert "</think>" in "".join(counted(rendering, CHAT))  # around nothing, where there is nothing to think of


def test_a_thought_that_is_part_of_the_mark_is_found_behind_it(rendering: Renderer) -> None:
    messages = [CHAT[0], {"role": "assistant", "content": "four", "reasoning_content": "hi"}]
    labelled = "".join(counted(rendering, messages, train_on_reasoning=False))
    assert labelled == "<think>\n\n</think>\n\nfour<|im_end|>"
