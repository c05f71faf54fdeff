"""What the README and the docs tell a reader to type: `sft` commands of their `sh` blocks, and of lines after a `$`.

A block after the line `<!-- not checked: why -->` is left out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sft.config.kfp_parameters import PARAMETERS
from sft.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKER = re.compile(r"<!-- not checked: (.+) -->")
_FENCE = re.compile(r"^( *)```(\w*)$")
_HEREDOC = re.compile(r"<<-?'?(\w+)'?")
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "(", ")"}


@dataclass(frozen=True)
class Command:
    """A command as it stands in a guide.

    Attributes:
        place: File and line.
        arguments: What follows `sft`.
    """

    place: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: sft {shlex.join(self.arguments)}"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines with their numbers, and why it is not checked, if it is not."""

    guide: Path
    language: str
    lines: tuple[tuple[int, str], ...]
    unchecked: str | None


def blocks(guide: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a guide."""
    inside, before, why = None, "", None
    found: list[tuple[int, str]] = []
    for number, line in enumerate(guide.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if inside is None and fence:
            inside, found = fence[2], []
            marker = MARKER.fullmatch(before.strip())
            why = marker[1] if marker else None
        elif inside is not None and line.strip() == "```":
            yield Block(guide, inside, tuple(found), why)
            inside = None
        elif inside is not None:
            found.append((number, line))
        before = line


def commands() -> Iterator[Command]:
    """Yield every `sft` command of every guide that is checked."""
    for guide in GUIDES:
        for block in blocks(guide):
            if block.unchecked is None:
                yield from _commands(block)


def _commands(block: Block) -> Iterator[Command]:
    for number, line in _whole_lines(block):
        if block.language != "sh":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        place = f"{block.guide.relative_to(ROOT)}:{number}"
        for part in [line, *re.findall(r"\$\(([^()]+)\)", line)]:
            yield from (Command(place, arguments) for arguments in of_shell(part))


def _whole_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Yield a block's lines, those that end in a backslash with the next one, without the text of heredocs."""
    end, kept = None, ""
    for number, line in block.lines:
        if end is not None:
            end = None if line.strip() == end else end
            continue
        if line.endswith("\\"):
            kept += f"{line[:-1]} "
            continue
        whole, kept = kept + line.strip(), ""
        if heredoc := _HEREDOC.search(whole):
            end = heredoc[1]
        yield number, whole


def of_shell(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the arguments of each `sft` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token not in _ENDS and not set(token) <= set("<>|&;()"):
            words.append(token)
            continue
        while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
            words.pop(0)
        if words and Path(words[0]).name == "sft":
            yield tuple(words[1:])
        words = []


def is_known(key: str) -> bool:
    """Return whether there is such a setting, or group, of a recipe or of Hydra's."""
    key = key.lstrip("+~")
    if key in PARAMETERS or re.match(r"hydra[./]", key):
        return True
    group, *names = re.split(r"[./]", key)
    return _is_in(RunConfig, [group, *names])


def _is_in(kind: Any, names: list[str]) -> bool:
    if not names:
        return True
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return names[0] in hints and _is_in(hints[names[0]], names[1:])
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        return not dataclasses.is_dataclass(inner) or _is_in(inner, names[1:])
    return False


def pages() -> ModuleType:
    """Return `docs/pages.py`, which makes pages of the code."""
    if "pages" not in sys.modules:
        spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
        assert spec
        assert spec.loader
        sys.modules["pages"] = importlib.util.module_from_spec(spec)  # its dataclasses look it up
        spec.loader.exec_module(sys.modules["pages"])
    return sys.modules["pages"]
