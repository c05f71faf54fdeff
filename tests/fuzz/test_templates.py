"""Whatever text a chat template is, it renders, or is refused in words and in time."""

from __future__ import annotations

import pytest

from sft.chat.template import Renderer, TemplateError
from sft.errors import SftError
from tests.fuzz.search import search

CHATML = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] | trim }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}{{ strftime_now('%d') }}"
)
TOKENS = [
    *(b"{{", b"}}", b"{%", b"%}", b"{#", b"-%}", b"{% endif %}", b"{% endfor %}", b"{% for x in messages %}"),
    *(b"messages", b"['content']", b".__class__.__mro__", b".append(1)", b"| length", b"| list", b"namespace()"),
    *(b"range(99999)", b"'a' * 99999", b"loop", b"None", b"{% macro m() %}", b"{{ m() }}", b"{% import 'os' %}"),
    *(b"1 / 0", b"tools", b"{% generation %}", b"{% break %}", b"\xff", b"\0", b"| tojson", b"self", b"cycler"),
]
CONVERSATION = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # while transformers is imported
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_template_renders_or_is_refused_in_time() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "<|im_end|>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<|im_end|>")

    def parse(content: bytes) -> None:
        tokenizer.chat_template = content.decode("utf-8", "replace")
        renderer = Renderer(tokenizer, frozenset({"<|im_end|>"}))
        assert isinstance(renderer.text(CONVERSATION), str)
        assert isinstance(renderer.prompt(CONVERSATION[:1]), str)

    search(parse, [CHATML.encode(), STRICT.encode()], TOKENS, refused_by=(SftError, TemplateError))
