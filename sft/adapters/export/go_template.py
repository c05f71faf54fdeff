"""Owns the small part of Go's text/template that a Modelfile of ours uses: how it is written, and what it renders.

Only ``range .Messages``, ``if eq .Role "…"``, ``else if``, ``end``, ``.Content`` and quoted texts.
Syntax: https://pkg.go.dev/text/template; Ollama's fields: template/template.go there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_EQUAL = re.compile(r"(?:else )?if eq \.Role (\".*\")")


def text(literal: str) -> str:
    """Return what a template writes a text with."""
    if "{{" not in literal:
        return literal
    quoted = json.dumps(literal, ensure_ascii=False).replace("{{", r"{\u007b").replace("}}", r"}\u007d")
    return f"{{{{ {quoted} }}}}"


@dataclass(frozen=True)
class ChatForm:
    """What stands around the turns of a chat.

    Attributes:
        around: Role -> what stands before and after its text.
        generation: What an answer begins after.
    """

    around: Mapping[str, tuple[str, str]]
    generation: str

    def template(self) -> str:
        """Return the template."""
        cases = "{{ else ".join(
            f"if eq .Role {json.dumps(role)} }}}}{text(before)}{{{{ .Content }}}}{text(after)}"
            for role, (before, after) in self.around.items()
        )
        return f"{{{{ range .Messages }}}}{{{{ {cases}{{{{ end }}}}{{{{ end }}}}{text(self.generation)}"


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Return what such a template makes of a chat.

    Raises:
        ValueError: It holds something else than what is written here.
    """
    shown, place = _Rendering(_pieces(template), messages).block(0, {})
    if place < len(_pieces(template)):
        raise ValueError("an end or else too many")
    return shown


def _pieces(template: str) -> list[tuple[bool, str]]:
    """Return texts, and actions without their braces: whether it is an action, and its content."""
    first, *rest = template.split("{{")
    pieces = [(False, first)]
    for part in rest:
        action, _, after = part.partition("}}")
        pieces += [(True, action.strip()), (False, after)]
    return pieces


@dataclass(frozen=True)
class _Rendering:
    pieces: Sequence[tuple[bool, str]]
    messages: Sequence[Mapping[str, str]]

    def block(self, place: int, message: Mapping[str, str]) -> tuple[str, int]:
        """Return what the pieces from `place` on show, and the place of the ``end`` or ``else`` after them."""
        shown = ""
        while place < len(self.pieces):
            is_action, content = self.pieces[place]
            if not is_action:
                shown += content
            elif content == "end" or content.startswith("else"):
                return shown, place
            elif content.startswith('"'):
                shown += str(json.loads(content))
            elif content == ".Content":
                shown += message["content"]
            elif content == "range .Messages":
                turns, place = self._range(place + 1)
                shown += turns
            else:
                branch, place = self._branches(place, message)
                shown += branch
            place += 1
        return shown, place

    def _range(self, place: int) -> tuple[str, int]:
        turns = [self.block(place, message) for message in self.messages]
        return "".join(turn for turn, _ in turns), turns[-1][1]

    def _branches(self, place: int, message: Mapping[str, str]) -> tuple[str, int]:
        """Return what the first branch shows whose condition holds, and the place of the ``end``."""
        shown = None
        while self.pieces[place] != (True, "end"):
            condition = _EQUAL.fullmatch(self.pieces[place][1])
            if condition is None:
                raise ValueError(f"unknown action {self.pieces[place][1]}")
            branch, place = self.block(place + 1, message)
            if place == len(self.pieces):
                raise ValueError("an end too few")
            if shown is None and message["role"] == json.loads(condition[1]):
                shown = branch
        return shown or "", place
