"""What a template does not render is found, whatever it is, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.chat.unrendered import unrendered
from tests.support.templates import CHAT, PROMPT, TURNS, with_template

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CALLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add", "description": "Adds."}}]
PLAIN = TURNS.replace("BODY", "(m.content or '')") + PROMPT
RICH = (
    "{{ tools | tojson if tools }}{% for m in messages %}{{ '<|im_start|>' + (m.name or m.role) + '\n' }}"
    "{{ m.reasoning_content if loop.last }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + PROMPT
)


def found(template: str, base: ModelArtifact, folder: Path, messages: Any, tools: Any = None) -> dict[str, str]:
    rendering = with_template(template, base, folder)
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return dict(unrendered(rendering, messages, rendering.text(messages, tools), tools, as_last=answers))


def rich() -> list[dict[str, Any]]:
    return [
        {**CHAT[0], "name": "ann"},
        {**CHAT[1], "reasoning_content": "two pairs", "tool_calls": CALLS},
        {"role": "tool", "content": "4", "name": "add", "tool_call_id": "c"},
        {"role": "assistant", "content": "four", "reasoning_content": "it says 4"},
    ]


@pytest.mark.slow
def test_every_kind_of_field_that_is_not_rendered_is_said(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    lost = found(PLAIN, tiny_model, tmp_path, rich(), TOOLS)
    assert lost.keys() == {"name", "tool_calls", "reasoning_content", "tools"}
    assert lost["name"] == 'turn 1 has name "ann"'
    assert lost["reasoning_content"] == 'turn 4 has reasoning_content "it says 4"'
    assert lost["tools"].startswith('tools is [{"type": "function"')


def test_nothing_is_said_of_a_template_that_renders_all(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    assert found(RICH, tiny_model, tmp_path, rich(), TOOLS) == {}
    assert found(PLAIN, tiny_model, tmp_path / "plain", CHAT) == {}


def test_reasoning_is_looked_for_where_the_turn_is_trained_as_the_last_one(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(RICH, tiny_model, tmp_path)
    messages = rich()
    whole = rendering.text(messages)
    assert "two pairs" not in whole  # the template drops it once the conversation goes on
    assert not list(unrendered(rendering, messages, whole, as_last=[1, 3]))
    never = with_template(PLAIN, tiny_model, tmp_path / "never")
    lost = list(unrendered(never, messages, never.text(messages), as_last=[3]))
    assert [kind for kind, _ in lost] == ["name", "tool_calls", "reasoning_content"]
    assert lost[-1][1].startswith("turn 4")  # turn 2 is context here


@pytest.mark.parametrize("role", ["developer", "tool", "user"])
def test_a_turn_that_is_left_out_is_said(role: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    template = f"{{% set messages = messages | rejectattr('role', 'equalto', '{role}') | list %}}" + PLAIN
    messages = [{"role": role, "content": "be brief"}, {"role": "assistant", "content": "four"}]
    assert found(template, tiny_model, tmp_path, messages) == {f"{role} turn": 'turn 1 has content "be brief"'}


def test_text_that_is_rendered_in_other_words_is_not_lost(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    template = TURNS.replace("BODY", "(m.content | upper if m.role == 'user' else m.content)") + PROMPT
    assert found(template, tiny_model, tmp_path, [{"role": "user", "content": "abc"}, CHAT[1]]) == {}


def test_a_turn_whose_text_stands_elsewhere_is_missed_all_the_same(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "How warm is it in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "function", "content": "18 degrees"},
        {"role": "assistant", "content": "It is 18 degrees."},
    ]
    deaf = "{% set messages = messages | rejectattr('role', 'in', ['function', 'developer']) | list %}" + RICH
    assert found(deaf, tiny_model, tmp_path, messages) == {"function turn": 'turn 3 has content "18 degrees"'}
    assert found(RICH, tiny_model, tmp_path / "rich", messages) == {}
    with_tools = (
        "{% set messages = messages | rejectattr('role', 'equalto', 'system' if tools else '') | list %}" + RICH
    )
    for role, template in (("developer", deaf), ("system", with_tools)):
        turns = [{"role": role, "content": "Be brief"}, {"role": "user", "content": "Be brief: 2+2?"}, messages[-1]]
        lost = found(template, tiny_model, tmp_path / role, turns, TOOLS)
        assert lost == {f"{role} turn": 'turn 1 has content "Be brief"'}
        assert found(RICH, tiny_model, tmp_path / f"{role} is shown", turns, TOOLS) == {}


def test_each_of_several_calls_is_looked_for(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    clock = {"type": "function", "function": {"name": "clock", "arguments": {}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [*CALLS, clock]}]
    first = RICH.replace("m.tool_calls | tojson", "m.tool_calls[0] | tojson")
    lost = found(first, tiny_model, tmp_path, messages)
    assert lost.keys() == {"tool_calls"}
    assert "clock" in lost["tool_calls"]
    assert found(RICH, tiny_model, tmp_path / "rich", messages) == {}


def test_reasoning_is_looked_for_in_the_whole_where_everything_trains(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(RICH, tiny_model, tmp_path)
    messages = rich()
    whole = rendering.text(messages)
    [(kind, where)] = unrendered(rendering, messages, whole, in_whole=[1, 3])
    assert (kind, where) == ("reasoning_content", 'turn 2 has reasoning_content "two pairs"')
