"""Pages of the docs that are made from the code, and what MkDocs needs to build all of them.

`docs/settings.md` is written by `python docs/pages.py` and kept, so that it can be read without building anything; a
test says when it is not current. The page of rules and errors, and those of files that lie outside of `docs/`, are made
each time the site is built: MkDocs calls `on_files` and `on_page_markdown` (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import ast
import dataclasses
import posixpath
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from sft.chat.sample import RULES
from sft.config.json_schema import setting_texts
from sft.config.schema import RunConfig
from sft.config.schema.bounds import rule_of
from sft.config.schema.rules import Number

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "docs" / "settings.md"
OUTSIDE = {
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "results.md": "benchmarks/RESULTS.md",
}
"""Pages that are files outside of `docs/`."""
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")
_LINE = 100
"""Characters of a default that stand in a table."""

# Settings ------------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the reference of every setting, from the dataclasses of `sft.config.schema`."""
    head = (
        "# Settings\n\n"
        "Every setting that a recipe may hold, read from `sft/config/schema/`: its type, its default, its bounds and\n"
        "what it does. `sft plan RECIPE --config` prints the values of a recipe, `sft schema` the same as JSON Schema\n"
        "for an editor. A setting is written in a recipe as YAML, or on the command line as `training.num_epochs=3`;\n"
        "a group's file as `training/lora=default`. `null` in a default means what the text says of null.\n\n"
        "<!-- Written by `python docs/pages.py`. -->\n"
    )
    return head + "".join(_group(RunConfig, ""))


def _group(group: type, prefix: str) -> Iterator[str]:
    hints, texts = typing.get_type_hints(group), setting_texts(group)
    rows, nested = [], []
    for field in dataclasses.fields(group):
        kind, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(kind):
            nested.append((kind, f"{key}."))
            continue
        nested += [(inner, f"{key}.NAME.") for inner in _groups_of(kind)]
        cells = (f"`{key}`", _type(kind), _default(field), _cell(_sentence(_bounds(field), texts.get(field.name))))
        rows.append(f"| {' | '.join(cells)} |\n")
    if rows:
        title = f"`{prefix.removesuffix('.')}`" if prefix else "The run"
        purpose = " ".join((group.__doc__ or "").split())
        yield f"\n## {title}\n\n{purpose}\n\n| setting | type | default | |\n|---|---|---|---|\n"
        yield from rows
    for kind, below in nested:
        yield from _group(typing.cast(type, kind), below)


def _groups_of(kind: Any) -> Iterator[type]:
    """Yield the group of settings that a mapping's values are."""
    yield from (one for one in typing.get_args(kind) if dataclasses.is_dataclass(one) and isinstance(one, type))


def _type(kind: Any) -> str:
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.name}`" for member in kind)
    names = {bool: "true, false", int: "whole number", float: "number", str: "text", Any: "anything"}
    if kind in names:
        return names[kind]
    if dataclasses.is_dataclass(kind):
        return "settings"
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return f"list of {_type(inside[0])}"
    if origin is dict:
        return f"mapping of names to {_type(inside[1])}"
    return " or ".join(_type(one) for one in inside)


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else MISSING
    match value:
        case str() if value == MISSING:
            return "required"
        case "":
            return "empty"
        case None:
            return "null"
        case bool():
            return f"`{str(value).lower()}`"
        case Enum():
            return f"`{value.name}`"
        case list():
            return f"`[{', '.join(one.name if isinstance(one, Enum) else str(one) for one in value)}]`"
        case dict():
            return "`{}`"
        case str() if len(value) > _LINE:
            return _cell(f"{value[:_LINE].rsplit(' ', 1)[0]} …")
        case _:
            return f"`{value}`"


def _bounds(field: dataclasses.Field[Any]) -> str:
    rule = rule_of(field)
    if not isinstance(rule, Number):
        return ""
    told = f"{rule}"
    return "" if told == "be " else f"Must {told}."


def _sentence(bounds: str, text: str | None) -> str:
    return " ".join(part for part in (text, bounds) if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Rules and errors ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """Something that the code refuses, in its own words; what a message holds of a setting or a file is "…"."""

    key: str
    text: str
    mend: str
    exit_code: int


_MESSAGES = {
    "Problem": 2,
    "Missing": 1,
    "DataError": 1,
    "StoreError": 1,
    "StageError": 1,
    "SftError": 1,
    "GateError": 3,
}
"""What refuses something, with the exit code that `sft` ends with."""


def errors_page() -> str:
    """Return every rule and error with its mend, collected from the code."""
    rows = [f"| `{rule}` | {_cell(mend)} |\n" for rule, mend in RULES.items()]
    found = sorted(set(_collected()), key=lambda one: (one.exit_code, one.key, one.text))
    settings = [one for one in found if one.exit_code == 2]
    others = [one for one in found if one.exit_code != 2]
    parts = [
        "# Rules and errors\n\n"
        "What sft refuses, and what mends it, collected from its code. A message says the same with the values of\n"
        "your run in the place of each …; all mistakes of a configuration are told at once, before anything runs.\n\n"
        "| exit code | |\n|---|---|\n| 0 | done |\n| 1 | a stage failed, or the machine can't do it |\n"
        "| 2 | the configuration is wrong |\n| 3 | the model misses a gate |\n"
        "| 75 | stopped, its state is saved: the same command continues |\n| 130 | interrupted |\n\n"
        "## Rows\n\n[Data](data.md#rules) says what breaks each rule.\n\n| rule | mend |\n|---|---|\n",
        *rows,
        "\n## Settings\n\nBounds of one setting stand in [Settings](settings.md).\n\n",
        "| setting | rule | try |\n|---|---|---|\n",
        *(f"| {_code(one.key)} | {_cell(one.text)} | {_cell(one.mend)} |\n" for one in settings),
        "\n## Runs\n\n| what happened | try |\n|---|---|\n",
        *(f"| {_cell(one.text)} | {_cell(one.mend)} |\n" for one in others),
    ]
    return "".join(parts)


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text and text != "…" else ""


def _collected() -> Iterator[Message]:
    for path in sorted((ROOT / "sft").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Name) and call.func.id in _MESSAGES:
                    yield from _message(call, function, _MESSAGES[call.func.id])


def _message(call: ast.Call, function: ast.FunctionDef, exit_code: int) -> Iterator[Message]:
    said = {keyword.arg: keyword.value for keyword in call.keywords}
    what = said.get("rule") or (call.args[0] if call.args else None)
    mend = said.get("suggestion") or said.get("fix")
    text = _words(what, function, call.lineno) if what else ""
    if not re.search("[a-z]{2}", text):  # nothing but values, which are of no use without them
        return
    key = _words(said["key"], function, call.lineno) if "key" in said else ""
    told = _words(mend, function, call.lineno) if mend else ""
    yield Message(key, text, told if re.search("[a-z]{2}", told) else "", exit_code)


def _words(node: ast.expr, function: ast.FunctionDef, line: int) -> str:
    """Return the text of an expression, "…" for what is known only when it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part, function, line) for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _words(left, function, line) + _words(right, function, line)
        case ast.Call(func=ast.Attribute(attr="format", value=value)):
            return re.sub(r"\{[^}]*\}", "…", _words(value, function, line))
        case ast.IfExp(body=body, orelse=orelse):
            first, second = _words(body, function, line), _words(orelse, function, line)
            return f"{first} / {second}" if first and second and "…" not in (first, second) else first or second
        case ast.Name(id=name):
            values = [value for at, value in _assigned(name, function) if at < line]
            return _words(values[-1], function, values[-1].lineno) if values else "…"
        case _:
            return "…"


def _assigned(name: str, function: ast.FunctionDef) -> Iterator[tuple[int, ast.expr]]:
    """Yield line and value of every assignment of a name in a function, pairs included, in order."""
    found = []
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=own)], value=value) if own == name:
                found.append((node.lineno, value))
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = zip(names, values, strict=False)
                found += [(node.lineno, value) for own, value in pairs if isinstance(own, ast.Name) and own.id == name]
    yield from sorted(found, key=lambda pair: pair[0])


# MkDocs --------------------------------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are no file of `docs/`; MkDocs calls it."""
    from mkdocs.structure.files import File  # the extra `docs`

    made = {"errors.md": errors_page()}
    made |= {page: (ROOT / path).read_text(encoding="utf-8") for page, path in OUTSIDE.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to files of the repository to their pages; MkDocs calls it."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, page: str) -> str:
    """Return a page whose links lead to pages; what has none becomes its text.

    Args:
        markdown: The page, with links as they are in the repository.
        page: Its path below `docs/`.
    """
    source = OUTSIDE.get(page, f"docs/{page}")
    pages = {path: name for name, path in OUTSIDE.items()}
    pages |= {"README.md": "index.md", "docs/pages.py": "errors.md"}  # which the repository does not have

    def point(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        found = pages.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if found is None:
            return f"]({_NOWHERE})"
        return f"]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{match[2] or ''})"

    return re.sub(rf"\[([^\]]*)\]\({_NOWHERE}\)", r"\1", _LINK.sub(point, markdown))


_NOWHERE = "nowhere:"

if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), encoding="utf-8")
