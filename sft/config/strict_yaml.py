"""Reads a recipe's YAML as a person means it: each key once, and nothing that unfolds to more than a recipe holds.

And writes values so that a recipe has them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import yaml

LARGEST_BYTES = 1 << 20
_MOST_NODES = 100_000
_DEEPEST = 50
"""OmegaConf takes several calls of Python for each level."""
_TOO_DEEP = f"is nested too deeply: to more than {_DEEPEST} levels"


class _Writer(yaml.SafeDumper):
    """Quotes a text that OmegaConf takes for a number though PyYAML does not: ``12e4567``, a commit."""


_Writer.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9_.]*[0-9][0-9_.]*[eE][-+]?[0-9]+"), list("-+0123456789._")
)


_Writer.add_representer(
    str,
    lambda writer, text: writer.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def written(value: Any) -> str:
    """Return a value as it stands in a recipe, in one line."""
    text = yaml.dump(value, Dumper=_Writer, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def document(settings: Any) -> str:
    """Return settings as a recipe's text."""
    return yaml.dump(settings, Dumper=_Writer, sort_keys=False)


def load(text: str) -> Any:
    """Return what a YAML document holds.

    Raises:
        ValueError: See `check`.
    """
    check(text)
    with _as_value_errors():
        return yaml.safe_load(text)


@lru_cache(maxsize=64)
def check(text: str) -> None:
    """Refuse a YAML document that does not say what a person reads in it.

    Raises:
        ValueError: It is not YAML, says a key twice (YAML keeps the last in silence), holds itself, is nested too
            deeply, or unfolds, through anchors, to more than `_MOST_NODES` values.
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"is larger than {LARGEST_BYTES >> 20} MiB")
    with _as_value_errors():
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return
        _unfolded(root, {}, set())
        if twice := next(_repeated(root), None):
            raise ValueError(f"says {twice}; YAML would keep the last one only: make them one")


@contextmanager
def _as_value_errors() -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _unfolded(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node stands for once every alias is written out."""
    if id(node) in above:
        raise ValueError(f"holds itself, through an anchor ({_line(node)})")
    if len(above) > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    if id(node) not in known:
        above.add(id(node))
        known[id(node)] = 1 + sum(_unfolded(child, known, above) for child in _children(node))
        above.remove(id(node))
    if known[id(node)] > _MOST_NODES:
        raise ValueError(f"unfolds to more than {_MOST_NODES:,} values, through anchors ({_line(node)})")
    return known[id(node)]


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _repeated(root: yaml.Node) -> Iterator[str]:
    """Yield each key that a mapping has twice, with both lines."""
    seen, waiting = set[int](), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += _children(node)
        lines = dict[str, int]()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                yield f"{key.value} twice (lines {lines[key.value]} and {line})"
            lines[key.value] = line
