"""What counts for the loss under small templates that are difficult in one way each."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.loss_masks import check_mask, renderer
from sft.artifacts import ModelArtifact
from sft.chat.template import Renderer, TemplateError
from sft.errors import DataError

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + BODY + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHAT = [
    {"role": "user", "content": "2 + 2"},
    {"role": "assistant", "content": " four\n"},
    {"role": "user", "content": "3"},
    {"role": "assistant", "content": "three"},
]


def made(template: str, base: ModelArtifact, folder: Path, *, stops: int | list[int] | None = None) -> Renderer:
    shutil.copytree(base.model_dir, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if stops is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return renderer(str(folder))


def counted(rendering: Renderer, messages: list[dict[str, Any]]) -> list[str]:
    row = rendering.tokenize(messages)
    check_mask(messages, row, rendering, "train.jsonl")
    groups = itertools.groupby(row["labels"], key=lambda label: label != -100)
    return [rendering.tokenizer.decode(list(group)) for counts, group in groups if counts]


def test_a_template_without_a_generation_prompt_is_trained(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = made(TURNS.replace("BODY", "m.content"), tiny_model, tmp_path)
    assert counted(rendering, CHAT) == [" four\n<|im_end|>", "three<|im_end|>"]


def test_what_a_template_strips_is_not_trained(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = made(TURNS.replace("BODY", "m.content | trim") + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT) == ["four<|im_end|>", "three<|im_end|>"]
    row = rendering.tokenize(CHAT)
    shown = rendering.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendering.tokenizer.decode(row["input_ids"]) == shown


REASONS = "('<think>' + m.reasoning_content + '</think>' if m.reasoning_content and loop.last else '') + m.content"


def test_reasoning_counts_where_the_template_shows_it_and_nowhere_else(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = made(TURNS.replace("BODY", REASONS) + PROMPT, tiny_model, tmp_path)
    messages = [{**m, "reasoning_content": "hm"} if m["role"] == "assistant" else m for m in CHAT]
    assert counted(rendering, messages) == [" four\n<|im_end|>", "<think>hm</think>three<|im_end|>"]


def test_a_turn_may_end_with_another_token_than_eos_if_the_model_stops_there(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    template = TURNS.replace("BODY", "m.content").replace("<|im_end|>", "<|endoftext|>")
    with pytest.raises(DataError, match="no token at which the model stops") as caught:
        counted(made(template, tiny_model, tmp_path / "refused"), CHAT)
    assert "it stops at <|im_end|>" in caught.value.message
    assert counted(made(template, tiny_model, tmp_path / "one", stops=0), CHAT)[1] == "three<|endoftext|>"
    assert counted(made(template, tiny_model, tmp_path / "some", stops=[2, 0]), CHAT)[1] == "three<|endoftext|>"


def test_a_template_that_ends_turns_with_the_next_roles_header_is_refused(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"
    with pytest.raises(DataError, match="then comes nothing"):
        counted(made(template, tiny_model, tmp_path), CHAT[:2])


@pytest.mark.parametrize("body", ["m.content | upper", "m.content | replace('three', 'x')"])
def test_a_template_that_changes_an_answer_is_refused(body: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    with pytest.raises((TemplateError, DataError), match=r"changes an assistant's turn|the loss would count"):
        counted(made(TURNS.replace("BODY", body), tiny_model, tmp_path), CHAT)


def test_a_template_that_drops_an_answer_is_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = made(TURNS.replace("BODY", "(m.content if loop.last else '')"), tiny_model, tmp_path)
    with pytest.raises(TemplateError, match="drops or changes"):
        counted(rendering, CHAT)


def test_special_tokens_that_the_model_writes_before_its_content_count(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    body = "('<|endoftext|>' if m.role == 'assistant' else '') + m.content"
    rendering = made(TURNS.replace("BODY", body) + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT)[1] == "<|endoftext|>three<|im_end|>"


def test_a_template_for_images_gets_its_texts_as_parts(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = made(TURNS.replace("BODY", "m.content[0]['text']") + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT)[1] == "three<|im_end|>"


def test_the_guard_sees_a_mask_that_is_off_by_one_token_that_is_no_white_space(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = made(TURNS.replace("BODY", "m.content") + PROMPT, tiny_model, tmp_path)
    row = rendering.tokenize(CHAT)
    check_mask(CHAT, row, rendering, "x")
    for place, label in enumerate(row["labels"]):
        if not rendering.tokenizer.decode(row["input_ids"][place]).strip():
            continue
        wrong = list(row["labels"])
        wrong[place] = row["input_ids"][place] if label == -100 else -100
        with pytest.raises(DataError, match="the loss would count"):
            check_mask(CHAT, {**row, "labels": wrong}, rendering, "x")


@pytest.mark.parametrize("refusal", ["{{ raise_exception('no system role') }}", ""])
def test_a_system_turn_that_a_template_does_not_know_goes_before_the_first_users_text(
    refusal: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    turn = TURNS.replace("BODY", "m.content").partition("%}")[2].removesuffix("{% endfor %}")
    template = (
        f"{{% for m in messages %}}{{% if m.role == 'system' %}}{refusal}{{% else %}}{turn}{{% endif %}}{{% endfor %}}"
    )
    rendering = made(template, tiny_model, tmp_path)
    assert rendering.folds_system
    messages = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert rendering.tokenizer.decode(rendering.tokenize(messages)["input_ids"]).startswith(
        "<|im_start|>user\nBe brief.\n\n2 + 2<|im_end|>\n<|im_start|>assistant\n four"
    )
    assert counted(rendering, messages) == [" four\n<|im_end|>", "three<|im_end|>"]
    assert not made(TURNS.replace("BODY", "m.content"), tiny_model, tmp_path / "knows").folds_system
