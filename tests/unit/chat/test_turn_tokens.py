"""Where turns lie under small templates that are difficult in one way each, and what generation starts from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.sample_tokens import renderer
from sft.artifacts import ModelArtifact
from sft.chat.template import TemplateError
from sft.chat.turn_tokens import TurnFinder
from sft.errors import DataError
from tests.support.templates import CHAT, PROMPT, TURNS, counted, loss_rows, texts, with_template

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PLAIN = TURNS.replace("BODY", "m.content") + PROMPT
REASONS = "('<think>' + m.reasoning_content + '</think>' if m.reasoning_content and loop.last else '') + m.content"


@pytest.mark.slow
def test_without_a_generation_prompt_the_model_has_to_write_the_header_of_its_turn(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(TURNS.replace("BODY", "m.content"), tiny_model, tmp_path)
    header = "<|im_start|>assistant\n"
    assert counted(rendering, CHAT) == [f"{header} four\n<|im_end|>", f"{header}three<|im_end|>"]


def test_what_a_template_strips_is_not_trained(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(TURNS.replace("BODY", "m.content | trim") + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT) == ["four<|im_end|>", "three<|im_end|>"]
    [row] = loss_rows(rendering, CHAT)
    shown = rendering.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendering.tokenizer.decode(row["input_ids"]) == shown


def test_each_turn_is_trained_as_the_model_writes_it_whatever_a_later_turn_makes_of_it(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(TURNS.replace("BODY", REASONS) + PROMPT, tiny_model, tmp_path)
    messages = [{**m, "reasoning_content": "hm"} if m["role"] == "assistant" else m for m in CHAT]
    whole, first = loss_rows(rendering, messages)
    assert texts(rendering, whole) == ["<think>hm</think>three<|im_end|>"]
    assert texts(rendering, first) == ["<think>hm</think> four\n<|im_end|>"]
    history = rendering.tokenizer.decode(whole["input_ids"])
    assert "assistant\n four\n<|im_end|>" in history  # as the model sees it when it answers again
    assert rendering.tokenizer.decode(first["input_ids"]).endswith("hm</think> four\n<|im_end|>")


def test_a_turn_may_end_with_another_token_than_eos_if_the_model_stops_there(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    template = PLAIN.replace("<|im_end|>", "<|endoftext|>")
    with pytest.raises(DataError, match="no token at which the model stops") as caught:
        counted(with_template(template, tiny_model, tmp_path / "refused"), CHAT)
    assert "it stops at <|im_end|>" in caught.value.message
    assert counted(with_template(template, tiny_model, tmp_path / "one", stops=0), CHAT)[1] == "three<|endoftext|>"
    assert (
        counted(with_template(template, tiny_model, tmp_path / "some", stops=[2, 0]), CHAT)[1] == "three<|endoftext|>"
    )


def test_a_template_that_ends_turns_with_the_next_roles_header_is_refused(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"
    with pytest.raises(DataError, match="then comes nothing"):
        counted(with_template(template, tiny_model, tmp_path), CHAT[:2])


def test_a_turn_without_a_stop_is_refused_alone_where_others_have_one(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    body = TURNS.replace("BODY", "m.content").replace(
        "'<|im_end|>\n'", "('' if m.content == 'three' else '<|im_end|>\n')"
    )
    rendering = with_template(body + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT[:2]) == [" four\n<|im_end|>"]
    with pytest.raises(TemplateError, match="ends the turn: then comes nothing"):
        counted(rendering, CHAT)


@pytest.mark.parametrize("body", ["m.content | upper", "m.content | replace('three', 'x')", "'' if loop.last else ''"])
def test_a_template_that_changes_or_drops_an_answer_is_refused(
    body: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(
        TURNS.replace("BODY", f"(m.content if m.role == 'user' else {body})") + PROMPT, tiny_model, tmp_path
    )
    with pytest.raises(TemplateError, match="drops or changes an assistant's turn"):
        counted(rendering, CHAT)


@pytest.mark.parametrize("before", ["<|endoftext|>", "<think>\n\n</think>\n\n", " to=user: "])
def test_what_the_template_puts_between_prompt_and_answer_counts(
    before: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    body = f"({json.dumps(before)} if m.role == 'assistant' else '') + m.content"
    rendering = with_template(TURNS.replace("BODY", body) + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT)[1] == f"{before}three<|im_end|>"


def test_white_space_that_only_the_generation_prompt_has_is_put_before_the_answer(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    body = "('<think></think>' if m.role == 'assistant' else '') + m.content"
    prompt = PROMPT.replace("assistant\n", "assistant\n<think>\n")
    rendering = with_template(TURNS.replace("BODY", body) + prompt, tiny_model, tmp_path)
    assert counted(rendering, CHAT) == ["</think> four\n<|im_end|>", "</think>three<|im_end|>"]
    last = loss_rows(rendering, CHAT)[-1]
    assert rendering.tokenizer.decode(last["input_ids"]).endswith("<think>\n</think>three<|im_end|>")


def test_a_generation_prompt_that_is_not_rendered_before_answers_is_refused(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    prompt = PROMPT.replace("assistant\n", "assistant\n<think>\n")
    rendering = with_template(TURNS.replace("BODY", "m.content") + prompt, tiny_model, tmp_path)
    with pytest.raises(TemplateError, match="trained on another beginning than it gets"):
        counted(rendering, CHAT)


def test_an_answer_that_begins_with_white_space_of_the_prompts_kind_starts_where_generation_does(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(PLAIN, tiny_model, tmp_path)
    rendering.tokenizer.add_tokens(["\n\n"])  # as many tokenizers have it
    messages = [CHAT[0], {"role": "assistant", "content": "\nfour"}]
    assert counted(rendering, messages) == ["\nfour<|im_end|>"]  # loss_rows compares the tokens before it
    assert counted(rendering, [*messages, *CHAT[2:]]) == ["three<|im_end|>", "\nfour<|im_end|>"]


def test_text_that_the_tokenizer_normalises_is_trained(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    from tokenizers import normalizers

    rendering = with_template(PLAIN, tiny_model, tmp_path)
    rendering.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    apart = "Zoe\u0308 o\u0308l"
    assert counted(rendering, [CHAT[0], {"role": "assistant", "content": apart}]) == ["Zo\u00eb \u00f6l<|im_end|>"]


def test_tokens_that_spell_something_else_are_refused_for_their_row(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(PLAIN, tiny_model, tmp_path)
    tokenizer = rendering.tokenizer

    class Deaf(type(tokenizer)):  # type: ignore[misc]
        def decode(self, *args: Any, **kwargs: Any) -> Any:
            return str(super().decode(*args, **kwargs)).replace("x", "y")

    tokenizer.__class__ = Deaf
    assert counted(rendering, [CHAT[0], {"role": "assistant", "content": "fine"}]) == ["fine<|im_end|>"]
    with pytest.raises(TemplateError, match=r"the tokens of an assistant's turn spell 'siy<\|im_end\|>', not 'six"):
        counted(rendering, [CHAT[0], {"role": "assistant", "content": "six"}])


@pytest.mark.parametrize("content", ["\ue0f0 four \ue0f1", "<think>\nhm\n</think>\n\nfour", "\U0001f600", "a\u2028b"])
def test_any_text_is_trained_as_it_stands(content: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(PLAIN, tiny_model, tmp_path)
    assert counted(rendering, [CHAT[0], {"role": "assistant", "content": content}]) == [f"{content}<|im_end|>"]


def test_places_are_those_of_the_turn_to_the_token(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(PLAIN, tiny_model, tmp_path)
    finder, whole = TurnFinder(rendering), rendering.text(CHAT)
    sequence, own = finder.sequences(CHAT, whole, None, [1, 3])
    assert not own
    spelled = [rendering.tokenizer.decode(sequence.token_ids[t.places.start : t.places.stop]) for t in sequence.turns]
    assert spelled == [" four\n<|im_end|>", "three<|im_end|>"]
    assert [turn.prompt for turn in sequence.turns] == [rendering.prompt(CHAT[:1]), rendering.prompt(CHAT[:3])]


def test_a_stop_that_the_tokenizer_divides_is_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(TURNS.replace("BODY", "m.content") + PROMPT, tiny_model, tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "split_special_tokens": True}))
    divided = renderer(str(tmp_path))
    assert loss_rows(rendering, CHAT)
    with pytest.raises(DataError, match="several tokens of what ends") as caught:
        loss_rows(divided, CHAT)
    assert "split_special_tokens" in str(caught.value.fix)


def test_a_control_token_that_is_not_marked_special_is_one(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    shutil.copytree(tiny_model.model_dir, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] != "<|im_start|>" and token["special"]
    file.write_text(json.dumps(content))
    for other in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tmp_path / other).exists():
            told = json.loads((tmp_path / other).read_text())
            for name in ("additional_special_tokens", "added_tokens_decoder", "extra_special_tokens"):
                told.pop(name, None)
            (tmp_path / other).write_text(json.dumps(told))
    rendering = renderer(str(tmp_path))
    marks = {t.content: t.special for t in rendering.tokenizer.added_tokens_decoder.values()}
    assert marks["<|im_start|>"] is False
    assert "<|im_start|>" in rendering.controls()
    assert rendering.controls() <= {"<|im_start|>", "<|im_end|>"}
