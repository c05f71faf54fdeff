"""Tools and calls of them, in one form whatever the source spelled: OpenAI's, with ``arguments`` as an object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from sft.chat import repeated_keys
from sft.chat.sample import InvalidRow

Declared = Mapping[str, Set[str]]
"""Names of the parameters of each tool that declares them."""

_ROLE_FIELDS = {"role", "from"}
_CONTENT_FIELDS = {"content", "value", "tool_calls", "function_call"}
_TURNS_BEGIN = re.compile(r"\[\s*\{")
_ROLE = re.compile(r"""["'](?:role|from)["']\s*:""")
_CONTENT = re.compile(r"""["'](?:content|value|tool_calls|function_call)["']\s*:""")
_NULL_IS_A_VALUE = {"default", "const"}


def tools_of(value: Any, column: str) -> list[Any]:
    """Return the tools of a row.

    Args:
        value: The column's value: a list, one object, or either as JSON text.
        column: ``tools``, or OpenAI's older ``functions``, whose entries are tools without their wrapping.

    Raises:
        InvalidRow: It is something else.
    """
    tools = parsed(value, column)
    tools = tools if isinstance(tools, list) else [tools]
    for tool in tools:
        if not isinstance(tool, dict):
            raise InvalidRow("wrong-type", f"{column} holds {kind_of(tool)}; it is a list of objects")
    tools = [_without_nulls(tool) for tool in tools]
    return [{"type": "function", "function": tool} for tool in tools] if column == "functions" else tools


def parsed(value: Any, what: str) -> Any:
    """Return what a text holds as JSON, or the value itself if it isn't a text.

    Raises:
        InvalidRow: The text isn't JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return _decoded(value)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRow("wrong-type", f"{what} is a text that is not JSON ({error}): {value[:60]!r}") from None


def _decoded(text: str) -> Any:
    """Return what a text says in JSON.

    Raises:
        InvalidRow: An object of it says a key twice.
    """
    value = msgspec.json.decode(text)
    repeated_keys.refuse(text.encode(), value)
    return value


def turns_in(value: Any, what: str) -> Any:
    """Return the turns that a text holds as JSON, or the value itself if it isn't such a text.

    Raises:
        InvalidRow: The text begins as turns do and isn't JSON: pandas and `str` write single quotes.
    """
    if not isinstance(value, str) or not _TURNS_BEGIN.match(value.lstrip()):
        return value
    try:
        turns = _decoded(value)
    except (msgspec.DecodeError, RecursionError) as error:
        if not (_ROLE.search(value) and _CONTENT.search(value)):
            return value
        raise InvalidRow(
            "wrong-type", f"{what} looks like turns and is not JSON ({error}), write it with json.dumps: {value[:60]!r}"
        ) from None
    are_turns = isinstance(turns, list) and all(
        isinstance(turn, dict) and turn.keys() & _ROLE_FIELDS and turn.keys() & _CONTENT_FIELDS for turn in turns
    )
    return turns if are_turns else value


def declared_parameters(tools: list[Any]) -> Declared:
    """Return the parameters of each tool that says which it has."""
    functions = [tool.get("function", tool) for tool in tools]
    declared = {}
    for function in (function for function in functions if isinstance(function, dict)):
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(properties, dict):
            declared[str(function.get("name"))] = properties.keys()
    return declared


def tool_calls_of(place: int, value: Any, declared: Declared, unread: set[str]) -> list[Any]:
    """Return the calls of an assistant's turn.

    Args:
        place: Number of the turn.
        value: A list of calls, each OpenAI's ``{"function": {"name", "arguments"}}`` or that function alone.
        declared: What the row's tools declare.
        unread: Gets the fields that aren't read.

    Raises:
        InvalidRow: A call has no name, or its arguments are no JSON object.
    """
    if not isinstance(value, list):
        raise InvalidRow("bad-tool-call", f"turn {place}: tool_calls is {kind_of(value)}")
    return [_call(f"turn {place}, call {number}", call, declared, unread) for number, call in enumerate(value, 1)]


def _call(where: str, call: Any, declared: Declared, unread: set[str]) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise InvalidRow("bad-tool-call", f"{where} is {kind_of(call)}")
    rest = {key: value for key, value in call.items() if value is not None}
    kind, identity = rest.pop("type", "function"), rest.pop("id", None)
    if kind != "function":
        raise InvalidRow("bad-tool-call", f"{where} is of type {kind!r}")
    function = rest.pop("function", None)
    if function is None:
        function, rest = rest, {}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidRow("bad-tool-call", f"{where} has no name")
    unread.update(f"messages[].tool_calls[].{name}" for name in {*rest, *function} - {"name", "arguments"})
    arguments = _arguments(where, function.get("arguments"), declared.get(function["name"]))
    called = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return called if identity is None else {"id": identity, **called}


def _arguments(where: str, value: Any, parameters: Set[str] | None) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = _decoded(value) if value.strip() else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRow("bad-tool-call", f"{where}: arguments are not JSON ({error}): {value[:60]!r}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRow("bad-tool-call", f"{where}: arguments are {kind_of(value)}")
    # An export of Arrow's rows gives each call the parameters of all tools, as null.
    return {k: v for k, v in value.items() if v is not None or parameters is None or k in parameters}


def _without_nulls(value: Any) -> Any:
    """Undo Arrow's fill in a tool's description: but for `_NULL_IS_A_VALUE`, null means nothing in JSON Schema."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if v is not None or k in _NULL_IS_A_VALUE}
        return {key: item if key in _NULL_IS_A_VALUE else _without_nulls(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def kind_of(value: Any) -> str:
    """Return the JSON name of a value's type, with its article."""
    return _KINDS[type(value)]


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}
