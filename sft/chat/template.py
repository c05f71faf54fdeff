"""Conversations as the model's own chat template renders them, in the form that the template wants.

The template is a program of its own. What it takes (a system turn, lists of parts, arguments of tools as an object or
as JSON text) is found by rendering small conversations and looking at the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft.chat.time_limit import TimeLimitExceeded, time_limit
from sft.errors import DataError
from sft.memory_limit import memory_limit

Message = Mapping[str, Any]

SYSTEM_ROLES = ("system", "developer")
RENDER_SECONDS = 10.0
"""Longest that one rendering may take; the longest conversations take milliseconds."""
RENDER_BYTES = 400 << 20
"""Memory that one rendering may take."""
_SYSTEM: Message = {"role": "system", "content": "instruction"}
_MARK = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]", re.DOTALL)
"""What no one writes by chance: an added token may be a plain word, or white space."""
_WRITTEN = re.compile(r"</?(think|thinking|reasoning|answer|tool_calls?|tool_responses?|function)>")
"""Marks that a model writes in an answer."""
PROBE: tuple[Message, ...] = ({"role": "user", "content": "question"}, {"role": "assistant", "content": "reply"})
_CALL = {"id": "callABC12", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Its name."}}},
    },
}


class TemplateError(Exception):
    """This conversation can't be rendered, or not so that its turns can be told apart."""


@dataclass(frozen=True)
class CallForm:
    """How a template wants a turn that calls tools.

    Attributes:
        content: What stands for a text that isn't there.
        as_text: Arguments are JSON text. Otherwise they are an object.
    """

    content: str | None = None
    as_text: bool = False


class Renderer:
    """A tokenizer with its chat template.

    Args:
        tokenizer: transformers' fast tokenizer.
        stops: Texts of the tokens at which the model stops when it generates.

    Attributes:
        folds_system: The template knows no system turn (Gemma 1 and 2), so it is put before the first user's text with
            an empty line between, as Gemma's documentation advises.
        wants_parts: The template, made for images too, takes contents only as lists of parts.
        call_form: How the template wants calls of tools.

    Raises:
        DataError: The template doesn't end in time, or takes too much memory.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.wants_parts = self.folds_system = False
        self.call_form = CallForm()
        self.wants_parts = self._shows_only_parts()
        self.folds_system = self._refuses_system()
        self.call_form = self._find_call_form()

    def text(self, messages: Sequence[Message], tools: Any = None) -> str:
        """Return the rendered conversation.

        Raises:
            TemplateError: It can't be rendered.
            DataError: The template doesn't end in time, or takes too much memory.
        """
        return self._render(messages, tools)

    def prompt(self, messages: Sequence[Message], tools: Any = None) -> str:
        """Return what the model gets to answer `messages`, from which generation starts.

        Raises:
            TemplateError: It can't be rendered.
            DataError: The template doesn't end in time, or takes too much memory.
        """
        return self._render(messages, tools, add_generation_prompt=True)

    def controls(self) -> frozenset[str]:
        """Return the texts of added tokens by which the template divides a conversation, special by name or not.

        Marks of reasoning and of calls may stand in a content: a model writes them itself.
        """
        shown = "".join([self._shown(PROBE, add_generation_prompt=False), self._shown(PROBE[:1])])
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        marks = {text for text in added if _MARK.fullmatch(text) and not _WRITTEN.fullmatch(text)}
        return frozenset(text for text in marks if text in shown)

    def _shown(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        try:
            return self._render(messages, add_generation_prompt=add_generation_prompt)
        except TemplateError:
            return ""

    def continued(self, messages: Sequence[Message]) -> str:
        """Return a conversation whose last turn is to be continued, without what would end it.

        Raises:
            TemplateError: It can't be rendered.
            DataError: The template doesn't end in time, or takes too much memory.
        """
        return self._render(messages, continue_final_message=True)

    def _shows_only_parts(self) -> bool:
        content = PROBE[1]["content"]
        if self._shows(content, PROBE):
            return False
        self.wants_parts = True
        return self._shows(content, PROBE)

    def _refuses_system(self) -> bool:
        return not self._shows(_SYSTEM["content"], [_SYSTEM, *PROBE])

    def _shows(self, content: str, messages: Sequence[Message]) -> bool:
        try:
            return content in self._render(messages)
        except TemplateError:
            return False

    def _find_call_form(self) -> CallForm:
        """Return the first form in which the arguments come out as JSON that was encoded once."""
        calling = [PROBE[0], {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
        forms = [CallForm(content, as_text) for as_text in (False, True) for content in (None, "")]
        for form in forms:
            self.call_form = form
            try:
                text = self._render(calling, [_TOOL])
            except TemplateError:
                continue
            if "Rome" in text and '\\"city' not in text and "{'city'" not in text:
                return form
        return forms[0]

    def _render(self, messages: Sequence[Message], tools: Any = None, **how: bool) -> str:
        shown = [self._as_wanted(message) for message in messages]
        if self.folds_system:
            shown = _folded(shown)
        if self.wants_parts:
            shown = [_in_parts(message) for message in shown]
        try:
            with time_limit(RENDER_SECONDS), memory_limit(RENDER_BYTES):
                text: str = self.tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, **how)
        except TimeLimitExceeded:
            fix = "take a template that ends (model.chat_template), or a shorter conversation"
            raise DataError(f"the chat template did not end within {RENDER_SECONDS:g} s", fix=fix) from None
        except MemoryError:
            fix = "take another template (model.chat_template), or a shorter conversation"
            raise DataError(f"the chat template takes more than {RENDER_BYTES >> 20} MiB", fix=fix) from None
        except Exception as error:  # a template is a program of its own and may raise whatever it likes
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return text

    def _as_wanted(self, message: Message) -> Message:
        """Return a message without what is ours alone, its calls of tools in the form that the template wants."""
        calls = message.get("tool_calls")
        if not calls and "weight" not in message:
            return message
        shown = {key: value for key, value in message.items() if key != "weight"}
        if calls:
            shown["content"] = message.get("content") or self.call_form.content
            shown["tool_calls"] = [_with_arguments(call, as_text=self.call_form.as_text) for call in calls]
        return shown


def _with_arguments(call: Any, *, as_text: bool) -> Any:
    """Return a call with its arguments as JSON text or as an object, whichever it had."""
    if not isinstance(call, Mapping):
        return call
    if "function" in call:
        return {**call, "function": _with_arguments(call["function"], as_text=as_text)}
    if "arguments" not in call:
        return call
    arguments = call["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise TemplateError(f"the arguments of the tool {call.get('name')} are not JSON: {error}") from error
    return {**call, "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments}


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if content else message


def _folded(messages: Sequence[Message]) -> list[Message]:
    if len(messages) < 2 or messages[0]["role"] not in SYSTEM_ROLES:
        return list(messages)
    system, user, *rest = messages
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]
