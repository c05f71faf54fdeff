"""How conversations are rendered under small templates that are difficult in one way each."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from sft.artifacts import ModelArtifact
from sft.chat import template as template_module
from sft.chat.template import TemplateError
from sft.errors import DataError
from tests.support.templates import CHAT, PROMPT, TURNS, counted, with_template

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CALLING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content if m.content }}"
    "{% for call in m.tool_calls or [] %}{{ CALL }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)


def test_a_template_for_images_gets_its_texts_as_parts(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(TURNS.replace("BODY", "m.content[0]['text']") + PROMPT, tiny_model, tmp_path)
    assert counted(rendering, CHAT)[1] == "three<|im_end|>"


@pytest.mark.parametrize("refusal", ["{{ raise_exception('no system role') }}", ""])
def test_a_system_turn_that_a_template_does_not_know_goes_before_the_first_users_text(
    refusal: str, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    turn = TURNS.replace("BODY", "m.content").partition("%}")[2].removesuffix("{% endfor %}")
    template = (
        f"{{% for m in messages %}}{{% if m.role == 'system' %}}{refusal}{{% else %}}{turn}{{% endif %}}{{% endfor %}}"
    )
    rendering = with_template(template + PROMPT, tiny_model, tmp_path)
    assert rendering.folds_system
    messages = [{"role": "system", "content": "Be brief."}, *CHAT]
    assert rendering.text(messages).startswith(
        "<|im_start|>user\nBe brief.\n\n2 + 2<|im_end|>\n<|im_start|>assistant\n four"
    )
    assert counted(rendering, messages) == [" four\n<|im_end|>", "three<|im_end|>"]
    assert not with_template(TURNS.replace("BODY", "m.content"), tiny_model, tmp_path / "knows").folds_system


@pytest.mark.parametrize(
    ("call", "as_text"),
    [
        ("call.function.arguments | tojson", False),
        ("call.function.arguments if call.function.arguments is string else call.function.arguments | tojson", False),
        ("'```' + call.function.arguments + '```'", True),
        ("call.function.arguments", True),  # an object would come out as Python spells it
    ],
)
def test_arguments_of_tools_reach_the_template_in_the_form_that_it_wants(
    call: str, as_text: bool, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    rendering = with_template(CALLING.replace("CALL", call) + PROMPT, tiny_model, tmp_path)
    assert rendering.call_form.as_text is as_text
    arguments = {"city": 'a "b"', "days": 3}

    def calling(given: object) -> str:
        function = {"name": "weather", "arguments": given}
        called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        return rendering.text([CHAT[0], called])

    assert calling(arguments) == calling(json.dumps(arguments))
    assert '{"city": "a \\"b\\"", "days": 3}' in calling(arguments)


def test_arguments_that_are_not_json_are_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template(CALLING.replace("CALL", "call.function.arguments | tojson"), tiny_model, tmp_path)
    call = {"function": {"name": "weather", "arguments": "{city"}}
    with pytest.raises(TemplateError, match="the arguments of the tool weather are not JSON"):
        rendering.text([CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call]}])


def test_a_turn_without_text_is_none_or_empty_as_the_template_takes_it(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    call = "call.function.arguments | tojson"
    wants_text = CALLING.replace("CALL", call).replace("{{ m.content if m.content }}", "{{ '' + m.content }}")
    assert with_template(wants_text, tiny_model, tmp_path / "text").call_form.content == ""
    assert with_template(CALLING.replace("CALL", call), tiny_model, tmp_path / "any").call_form.content is None


def test_a_weight_is_not_shown_to_the_template(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    rendering = with_template("{{ messages | tojson }}" + TURNS.replace("BODY", "m.content"), tiny_model, tmp_path)
    assert "weight" not in rendering.text([CHAT[0], {**CHAT[1], "weight": 0}])


def test_a_template_that_loops_ends_in_an_error(
    tiny_model: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "RENDER_SECONDS", 0.5)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    began = time.monotonic()
    with pytest.raises(DataError, match=r"the chat template did not end within 0\.5 s"):
        with_template(loops + TURNS.replace("BODY", "m.content"), tiny_model, tmp_path)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
@pytest.mark.parametrize(
    "bomb",
    ["{{ 'a' * 10**10 }}", "{{ 'a' | center(10**10) }}", "{% for i in range(99999) %}{{ 'a' * 10**6 }}{% endfor %}"],
)
def test_a_template_that_would_fill_the_memory_is_ended(bomb: str, tiny_model: ModelArtifact, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the chat template takes more than 400 MiB\n  try: take another template"):
        with_template(bomb + TURNS.replace("BODY", "m.content") + PROMPT, tiny_model, tmp_path)
