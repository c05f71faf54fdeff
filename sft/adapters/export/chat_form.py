"""What a chat template puts around each turn, found by rendering chats and looking at the result.

A template in Jinja is a program; Go's of Ollama is another one. Most only put texts around turns, and those are
translated; a template that does more is not, as the prompts that are compared afterwards show.
"""

from __future__ import annotations

from dataclasses import dataclass

from sft.adapters.export.go_template import ChatForm
from sft.chat.template import Message, Renderer, TemplateError
from sft.errors import StageError

_SYSTEM: Message = {"role": "system", "content": "INSTRUCTION"}
_USER: Message = {"role": "user", "content": "QUESTION"}
_ANSWER: Message = {"role": "assistant", "content": "REPLY"}
_FIX = "--to gguf, whose own template llama.cpp reads"


@dataclass(frozen=True)
class Translated:
    """A chat template as texts around turns.

    Attributes:
        form: What stands around the turns, without the token that begins every text.
        bos: That token, where the template writes it; else empty.
        system: What the template says as the system where a chat has no such turn; else empty.
    """

    form: ChatForm
    bos: str
    system: str


class _NotAroundTurns(Exception):
    """Something else than texts around turns."""


def translated(renderer: Renderer) -> Translated:
    """Return a chat template as texts around turns.

    Raises:
        StageError: It is not so simple.
    """
    try:
        return _translated(renderer)
    except (_NotAroundTurns, TemplateError) as error:
        message = f"--to ollama: the chat template does more than put texts around turns ({error})"
        raise StageError(message, fix=_FIX) from error


def _translated(renderer: Renderer) -> Translated:
    chat = [_SYSTEM, _USER, _ANSWER, {"role": "user", "content": "FURTHER"}]
    begin, after_system, after_user, after_answer, end = _cut(
        renderer.text(chat), "INSTRUCTION", "QUESTION", "REPLY", "FURTHER"
    )
    bos = renderer.tokenizer.bos_token or ""
    bos = bos if bos and begin.startswith(bos) else ""
    user_end = end
    answer_begin = _without(after_user, prefix=user_end)
    whole = renderer.text([_SYSTEM, _USER, _ANSWER])
    answer_end = whole[whole.rindex("REPLY") + len("REPLY") :]
    user_begin = _without(after_answer, prefix=answer_end)
    system_begin, system_end = begin.removeprefix(bos), _without(after_system, suffix=user_begin)
    asked = renderer.prompt([_SYSTEM, _USER])
    generation = _without(asked[asked.rindex("QUESTION") + len("QUESTION") :], prefix=user_end)
    lead, _ = _cut(renderer.text([_USER]), "QUESTION")
    lead = _without(lead.removeprefix(bos), suffix=user_begin)
    system = _without(_without(lead, prefix=system_begin), suffix=system_end) if lead else ""
    around = {
        "system": (system_begin, system_end),
        "user": (user_begin, user_end),
        "assistant": (answer_begin, answer_end),
    }
    return Translated(ChatForm(around, generation), bos, system)


def _cut(text: str, *words: str) -> list[str]:
    """Return the parts of a text between words that stand in it once each, in this order."""
    parts = []
    for word in words:
        part, found, text = text.partition(word)
        if not found or word in text:
            raise _NotAroundTurns(f"a turn's text stands {'twice' if found else 'nowhere'} in it, or elsewhere")
        parts.append(part)
    return [*parts, text]


def _without(text: str, prefix: str = "", suffix: str = "") -> str:
    if not (text.startswith(prefix) and text.endswith(suffix)):
        raise _NotAroundTurns("what stands around a turn depends on the turns beside it")
    return text.removeprefix(prefix)[: len(text) - len(prefix) - len(suffix)]
