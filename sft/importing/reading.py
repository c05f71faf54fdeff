"""Reads a file of another project: YAML, JSON, or the flags of a command line; as data, of which nothing is run."""

from __future__ import annotations

import datetime
import json
import math
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sft.config import strict_yaml
from sft.errors import ConfigError, Problem
from sft.files import read_document
from sft.importing.rows import Project

_STARTS = re.compile(r"--[A-Za-z]|(trl|accelerate|torchrun|python[\d.]{0,9}) ")
_FLAG = re.compile(r"--(?:no[_-])?[A-Za-z][\w-]{0,100}")
_FOR_A_SHELL = re.compile(r"[$`;|<>&]")
_OTHERS = re.compile(r"(dpo|kto|grpo|rloo|orpo|cpo|ppo|gkd|reward|reward_modeling|online_dpo|nash_md|xpo|bco)\.py")
"""Scripts of TRL's other trainers."""
_LITERAL = re.compile(r"'[^']*'|\"[^\"$`]*\"")
"""What is between quotes, in which a shell does nothing."""


def read(path: Path) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        ConfigError: It can't be read, is no mapping, holds what YAML runs or unfolds, or a shell would act upon.
    """
    try:
        text = read_document(path, strict_yaml.LARGEST_BYTES).decode("utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if path.suffix not in {".yaml", ".yml", ".json"} and lines and _STARTS.match(lines[0].lstrip()):
            return _flags(text)
        content = json_of(text) if path.suffix == ".json" else strict_yaml.load(text)
        if not isinstance(content, dict):
            raise ValueError("is no mapping of settings to values")
        if dotted := next((name for name in content if "." in str(name) or "[" in str(name)), None):
            raise ValueError(f"{str(dotted)[:50]} is no name of a setting: nest it (`a: {{b: 1}}`, not `a.b: 1`)")
        _check(content, "")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(key=str(path), rule=f"can't be read: {error}")]) from error
    except ValueError as error:
        raise ConfigError([Problem(key=str(path), rule=str(error))]) from error
    return content


def json_of(text: str) -> Any:
    """Return what JSON says, which YAML reads otherwise where it has tabs, or characters beyond 16 bits by `\\u`.

    Raises:
        ValueError: It is none, says a key twice, or is nested too deeply.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            name = next(name for name in found if [key for key, _ in pairs].count(name) > 1)
            raise ValueError(f"says {name[:50]} twice; the last one only would be kept: make them one")
        return found

    try:
        content = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    strict_yaml.check(json.dumps(content))
    return content


def _check(value: Any, key: str) -> None:
    """Refuse what JSON could not hold: keys that are no text, dates, sets, numbers without an end."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{key or 'the file'} has the key {str(name)[:50]}, which is no text: quote it")
            _check(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            _check(item, key)
    elif isinstance(value, datetime.date | bytes | set | tuple):
        raise ValueError(f"{key} is neither text nor a number: quote it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number")


def _flags(text: str) -> dict[str, Any]:
    """Return the flags of a command, which is not run.

    Raises:
        ValueError: A line is for a shell, or holds something that belongs to no flag.
    """
    found: dict[str, Any] = {}
    flag = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("#") and _FOR_A_SHELL.search(_LITERAL.sub("", line)):
            raise ValueError(f"line {number} is for a shell, which doesn't run here: write the value itself")
        try:
            words = shlex.split(line.rstrip("\\"), comments=True)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        for before, word in pairwise(["", *words]):
            if (before == "trl" and word != "sft" and not word.startswith("-")) or _OTHERS.fullmatch(Path(word).name):
                raise ValueError(
                    f"line {number}: {word[:50]} is another training than `trl sft`: sft does supervised fine-tuning"
                )
            if word.startswith("--"):
                flag = _name(word, number)
                if flag in found:
                    raise ValueError(f"line {number} says {word.partition('=')[0]} twice: make them one")
                has_value = "=" in word
                is_not = re.match(r"--no[_-]", word)
                found[flag] = _value(word.partition("=")[2], number) if has_value else not is_not
            elif flag:
                earlier, value = found[flag], _value(word, number)
                several = earlier if isinstance(earlier, list) else [earlier]
                found[flag] = value if earlier is True else [*several, value]
    return found


def _name(word: str, line: int) -> str:
    name = word.partition("=")[0]
    if not _FLAG.fullmatch(name):
        raise ValueError(f"line {line}: {name[:50]} is no flag")
    return re.sub(r"^--(no[_-])?", "", name).replace("-", "_")


def _value(text: str, line: int) -> Any:
    try:
        value = strict_yaml.load(text)
    except ValueError:
        return text
    if isinstance(value, datetime.date) or value is None:
        return text
    _check(value, f"line {line}")
    return value


def leaves(content: dict[str, Any], project: Project) -> Iterator[tuple[str, str, Any]]:
    """Yield each setting of a file: its key, the key of its row (`datasets[].path`), its value.

    A mapping that a row takes whole, or of whose settings none is known, is one setting.
    """
    yield from _leaves(content, "", "", project)


def _leaves(value: Any, key: str, row: str, project: Project) -> Iterator[tuple[str, str, Any]]:
    known = project.rows
    if isinstance(value, dict) and value and (not row or (row not in known and _has_below(row, project))):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name, f"{row}.{name}" if row else name, project)
    elif isinstance(value, dict) and value and key == project.datasets:
        yield from _leaves(value, key, f"{row}[]", project)
    elif isinstance(value, list) and value and key == project.datasets and all(isinstance(one, dict) for one in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{key}[{place}]", f"{row}[]", project)
    elif isinstance(value, dict) and value and _has_below(row, project) and not set(value) - _below(row, project):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}", f"{row}.{name}", project)
    else:
        yield key, row, value


def _below(row: str, project: Project) -> set[str]:
    return {key[len(row) + 1 :].partition(".")[0] for key in project.rows if key.startswith(f"{row}.")}


def _has_below(row: str, project: Project) -> bool:
    return any(key.startswith(f"{row}.") for key in project.rows)


def recognised(content: dict[str, Any], projects: tuple[Project, ...], path: Path) -> Project:
    """Return the project that a file is of, by keys that only one of them has.

    Raises:
        ConfigError: It has keys of none, or of several.
    """
    present = set(content) | {f"{key}._component_" for key, value in content.items() if _is_component(value)}
    found = {project.name: sorted(project.tells & present) for project in projects}
    likely = [project for project in projects if found[project.name]]
    if len(likely) == 1:
        return likely[0]
    suggestion = f"--from {'|'.join(project.name for project in projects)}"
    if not likely:
        rule = "has no key by which a configuration of axolotl, LLaMA-Factory, torchtune or TRL is known"
        raise ConfigError([Problem(key=str(path), rule=rule, suggestion=suggestion)])
    told = "; ".join(f"{project.title} has {', '.join(found[project.name][:3])}" for project in likely)
    raise ConfigError([Problem(key=str(path), rule=f"may be of several projects: {told}", suggestion=suggestion)])


def _is_component(value: Any) -> bool:
    return isinstance(value, dict) and "_component_" in value
