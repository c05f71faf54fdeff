"""One turn of a conversation, in OpenAI's spelling (``role``, ``content``) or ShareGPT's (``from``, ``value``)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import UNSET

from sft.chat.sample import InvalidRow, Message, Role
from sft.chat.tool_calls import Declared, kind_of, parsed, tool_calls_of
from sft.chat.unread import MEANINGFUL_TURN_FIELDS, refuse_if_meaningful, says_nothing

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "function",
}
_SHAREGPT_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
_PLAIN = {"role", "content"}
_WEIGHTS = ("weight", "train", "loss", "loss_mask", "trainable")
"""How people say whether a turn trains: 0 or false for context, 1 or true for a turn that trains."""


@dataclass
class TurnReader:
    """Reads the turns of one row.

    Attributes:
        ignored: Fields that the recipe leaves out.
        declared: Parameters of the row's tools.
        unread: Gets the fields that aren't read.
        seen: Gets the ignored fields that a turn has.
    """

    ignored: Set[str] = frozenset()
    declared: Declared = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def messages(self, turns: Any, what: str, *, after: int = 0, is_context: bool = False) -> list[Message]:
        """Return the messages of a list of turns.

        Args:
            turns: The list, or its JSON as a text.
            what: The column's name.
            after: How many turns come before these.
            is_context: Whether its assistant's turns carry no loss unless they say so.

        Raises:
            InvalidRow: A turn breaks a rule.
        """
        turns = parsed(turns, what)
        if not isinstance(turns, list):
            raise InvalidRow("wrong-type", f"{what} is {kind_of(turns)}")
        default: Literal[0, 1] = 0 if is_context else 1
        return [self._message(place, turn, default) for place, turn in enumerate(turns, start=after + 1)]

    def _message(self, place: int, turn: Any, default_weight: Literal[0, 1]) -> Message:
        if not isinstance(turn, dict):
            raise InvalidRow("wrong-type", f"turn {place} is {kind_of(turn)}")
        if turn.keys() == _PLAIN and default_weight and not self.ignored:
            role, text = turn["role"], turn["content"]
            if type(role) is str and type(text) is str and role in _ROLES:
                return Message(_ROLES[role], text)
        fields = {name: value for name, value in turn.items() if value is not None and name not in self.ignored}
        self.seen |= self.ignored & turn.keys()
        is_call = fields.get("from") == "function_call"
        role = _role(place, fields)
        weight = _weight(place, role, fields, default_weight)
        if is_call:
            calls = parsed(fields.pop("value", None), f"turn {place}: value")
            fields["tool_calls"] = calls if isinstance(calls, list) else [calls]
        tool_calls = self._tool_calls(place, role, fields)
        text = _content(place, fields, self.unread)
        if text is None and not tool_calls:
            rule = "empty-answer" if role == "assistant" else "no-content"
            raise InvalidRow(rule, f"turn {place}, of the {role}, has no content")
        message = Message(
            role,
            text or "",
            _text(place, fields, "name") or UNSET,
            tool_calls or UNSET,
            _text(place, fields, "tool_call_id") or UNSET,
            (_text(place, fields, "reasoning_content", "reasoning", "thinking") if role == "assistant" else "")
            or UNSET,
            UNSET if weight else 0,
        )
        self._note_unread(place, fields)
        return message

    def _tool_calls(self, place: int, role: str, fields: dict[str, Any]) -> list[Any]:
        if fields.keys().isdisjoint(("tool_calls", "function_call")):
            return []
        calls, older = fields.pop("tool_calls", None), fields.pop("function_call", None)
        if older and calls:
            raise InvalidRow("two-spellings", f"turn {place} has both tool_calls and function_call")
        calls = [older] if older else parsed(calls, f"turn {place}: tool_calls")
        if not calls:
            return []
        if role != "assistant":
            raise InvalidRow("bad-tool-call", f"turn {place}, of the {role}, calls a tool")
        return tool_calls_of(place, calls, self.declared, self.unread)

    def _note_unread(self, place: int, fields: dict[str, Any]) -> None:
        if not fields:
            return
        left = [name for name, value in fields.items() if not says_nothing(value)]
        refuse_if_meaningful(left, MEANINGFUL_TURN_FIELDS, f"turn {place}: ")
        self.unread.update(f"messages[].{name}" for name in left)


def _role(place: int, fields: dict[str, Any]) -> Role:
    spelled = [(name, fields.pop(name)) for name in ("role", "from") if name in fields]
    if not spelled:
        raise InvalidRow("wrong-type", f"turn {place} has no role")
    roles = []
    for name, value in spelled:
        known = _ROLES if name == "role" else _SHAREGPT_ROLES
        if not isinstance(value, str) or value not in known:
            known_are = f"; known are {', '.join(known)}" if name == "from" else ""  # the rule itself lists roles
            raise InvalidRow("unknown-role", f"turn {place}: {name} is {value!r}{known_are}")
        roles.append(known[value])
    if roles[0] != roles[-1]:
        raise InvalidRow("two-spellings", f"turn {place}: role and from differ")
    return roles[0]


def _weight(place: int, role: str, fields: dict[str, Any], default: Literal[0, 1]) -> bool:
    flags = {} if fields.keys().isdisjoint(_WEIGHTS) else {n: fields.pop(n) for n in _WEIGHTS if n in fields}
    for name, value in flags.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            raise InvalidRow("bad-weight", f"turn {place}: {name} is {value!r}")
    if len({bool(value) for value in flags.values()}) > 1:
        raise InvalidRow("bad-weight", f"turn {place}: {' and '.join(flags)} contradict each other")
    if not flags:
        return bool(default) or role != "assistant"
    trains = bool(next(iter(flags.values())))
    if trains and role != "assistant":
        name, value = next(iter(flags.items()))
        raise InvalidRow("user-weight", f"turn {place}, of the {role}, has {name} {value!r}")
    return trains


def _content(place: int, fields: dict[str, Any], unread: set[str]) -> str | None:
    """Return a turn's text; None if there is none."""
    values = [fields.pop(name) for name in ("content", "value") if name in fields]
    if len(values) > 1 and values[0] != values[1]:
        raise InvalidRow("two-spellings", f"turn {place}: content and value differ")
    if not values or values[0] in ([], {}):
        return None
    if isinstance(values[0], str):
        return values[0]
    if not isinstance(values[0], list):
        raise InvalidRow("wrong-type", f"turn {place}: content is {kind_of(values[0])}")
    return "".join(_part(place, part, unread) for part in values[0])


def _part(place: int, part: Any, unread: set[str]) -> str:
    if not isinstance(part, dict):
        raise InvalidRow("wrong-type", f"turn {place}: content holds {kind_of(part)}")
    text = part.get("text")
    if part.get("type", "text") != "text" or not isinstance(text, str):
        raise InvalidRow("not-text", f"turn {place} has a part of type {part.get('type', 'text')}")
    left = {name for name, value in part.items() if not says_nothing(value)} - {"type", "text"}
    refuse_if_meaningful(left, MEANINGFUL_TURN_FIELDS, f"turn {place}: ")
    unread.update(f"messages[].content[].{name}" for name in left)
    return text


def _text(place: int, fields: dict[str, Any], *spellings: str) -> str:
    """Return the text of a field that may have several names; empty if it isn't there."""
    if fields.keys().isdisjoint(spellings):
        return ""
    values = {name: value for name in spellings if (value := fields.pop(name, None)) is not None}
    for name, value in values.items():
        if not isinstance(value, str):
            raise InvalidRow("wrong-type", f"turn {place}: {name} is {kind_of(value)}")
    if len(set(values.values())) > 1:
        raise InvalidRow("two-spellings", f"turn {place}: {' and '.join(values)} differ")
    return next(iter(values.values()), "")
