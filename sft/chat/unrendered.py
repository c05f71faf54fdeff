"""What of a conversation the chat template does not render, found by rendering with and without it.

Not looked for: ``name`` and ``tool_call_id`` of a tool's result, which only say which call it answers, and the
reasoning of turns that are context, which templates drop on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sft.chat.template import Message, Renderer, TemplateError

_PLAIN = {"role", "content", "weight"}
_RESULTS = ("tool", "function")
_MARKED = ("developer", *_RESULTS)
"""Roles that many templates don't know and drop. What such a turn says often stands in another turn, too."""
_SHOWN_CHARACTERS = 50


def unrendered(
    renderer: Renderer,
    messages: Sequence[Message],
    whole: str,
    tools: Any = None,
    *,
    as_last: Collection[int] = (),
    in_whole: Collection[int] = (),
) -> Iterator[tuple[str, str]]:
    """Yield each field that the template doesn't render, with where it is.

    Args:
        renderer: The tokenizer with its chat template.
        messages: The conversation.
        whole: All of it, rendered.
        tools: Descriptions of tools.
        as_last: Turns that are trained as the template renders them when they are the last.
        in_whole: Turns that are trained as they stand in the whole conversation.
    """
    for number in _hidden(renderer, messages, whole, tools):
        message = messages[number]
        yield f"{message['role']} turn", f"turn {number + 1} has content {_excerpt(message['content'])}"
    for number, message in enumerate(messages):
        for place in _lost_calls(renderer, messages, whole, number, tools):
            yield "tool_calls", f"turn {number + 1} has tool_calls {_excerpt(message['tool_calls'][place])}"
        for field in _fields(message, whole, is_trained=number in as_last or number in in_whole):
            shown = messages[: number + 1] if number in as_last else messages
            if _same_without(renderer, shown, number, field, tools):
                kind = f"{message['role']} turn" if field == "content" else field
                yield kind, f"turn {number + 1} has {field} {_excerpt(message[field])}"
    if tools and _render(renderer, messages, None) == whole:
        yield "tools", f"tools is {_excerpt(tools)}"


def _fields(message: Message, whole: str, *, is_trained: bool) -> Iterator[str]:
    """Yield the fields of a message that may not be rendered. An assistant's content is proved elsewhere."""
    content = (message.get("content") or "").strip()
    if message["role"] not in _MARKED and message["role"] != "assistant" and content and content not in whole:
        yield "content"
    if message.keys() <= _PLAIN:
        return
    if message.get("name") and message["role"] not in _RESULTS:
        yield "name"
    if len(message.get("tool_calls") or ()) == 1:
        yield "tool_calls"
    if message.get("reasoning_content") and is_trained:
        yield "reasoning_content"


def _hidden(renderer: Renderer, messages: Sequence[Message], whole: str, tools: Any) -> Iterator[int]:
    """Yield the turns of `_MARKED`, and a system turn that another one repeats, whose content is nowhere rendered.

    A mark of its own in the place of each content tells; where a template doesn't take such contents, nothing is told.
    """
    contents = [(message.get("content") or "").strip() for message in messages]
    looked_at = [
        number
        for number, message in enumerate(messages)
        if contents[number]
        and (message["role"] in _MARKED or (message["role"] == "system" and _is_repeated(number, contents, whole)))
    ]
    if not looked_at:
        return
    marked = [*messages]
    for number in looked_at:
        marked[number] = {**messages[number], "content": _mark(number)}
    shown = _render(renderer, marked, tools)
    if shown is not None:
        yield from (number for number in looked_at if _mark(number) not in shown)


def _is_repeated(number: int, contents: Sequence[str], whole: str) -> bool:
    """Return whether a content stands in the whole conversation, and more seldom than turns hold it."""
    times = whole.count(contents[number])
    return 0 < times < sum(content.count(contents[number]) for content in contents)


def _mark(number: int) -> str:
    return f"mark-of-turn-{number}-alone"


def _lost_calls(renderer: Renderer, messages: Sequence[Message], whole: str, number: int, tools: Any) -> Iterator[int]:
    """Yield which of several calls of a turn the template doesn't render: some render the first alone."""
    calls = messages[number].get("tool_calls") or ()
    if len(calls) < 2:
        return
    for place in range(len(calls)):
        rest = {**messages[number], "tool_calls": [*calls[:place], *calls[place + 1 :]]}
        if _render(renderer, [*messages[:number], rest, *messages[number + 1 :]], tools) == whole:
            yield place


def _same_without(renderer: Renderer, messages: Sequence[Message], number: int, field: str, tools: Any) -> bool:
    message = messages[number]
    rest = {key: value for key, value in message.items() if key != field}
    if field == "content":
        rest[field] = ""
    with_it = _render(renderer, messages, tools)
    return with_it is not None and with_it == _render(
        renderer, [*messages[:number], rest, *messages[number + 1 :]], tools
    )


def _render(renderer: Renderer, messages: Sequence[Message], tools: Any) -> str | None:
    """Return the rendered conversation, or None where the template refuses it: then it looks at what is missing."""
    try:
        return renderer.text(messages, tools)
    except TemplateError:
        return None


def _excerpt(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    short = text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else "")
    return json.dumps(short, ensure_ascii=False) if isinstance(value, str | Mapping) else short
