"""Owns callbacks: what installed packages want to be told of a training, from the process that watches it.

A package offers one under the entry point group ``sft.callbacks``; a recipe names it. Nothing else can be named, so a
recipe runs no code that nobody has installed. It is called with no argument, and what it returns has any of
``on_step(row)``, ``on_epoch(epoch, row)`` and ``on_end(facts)``; all are given plain data of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sft.errors import StageError

GROUP = "sft.callbacks"
_METHODS = ("on_step", "on_epoch", "on_end")


@dataclass(frozen=True)
class Callback:
    """A callback at work.

    Attributes:
        name: As the recipe names it, with package and version: ``pager (acme-sft 1.2)``.
        methods: Those that it has.
    """

    name: str
    methods: Mapping[str, Callable[..., object]]

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method if the callback has it.

        Raises:
            StageError: It raised something.
        """
        if method not in self.methods:
            return
        try:
            self.methods[method](*arguments)
        except Exception as error:
            raise StageError(
                f"callback {self.name}: {method} failed: {type(error).__name__}: {error}",
                fix="mend the package, or leave it out of training.callbacks; the training continues from its last "
                "full state",
            ) from error


def installed() -> dict[str, EntryPoint]:
    """Return the callbacks that installed packages offer, by name; of two of one name the first that Python finds."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, entry)
    return found


def missing(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a callback that no installed package offers, and what to try."""
    offered = installed()
    for name in names:
        if name not in offered:
            yield name, f"install the package that offers it; there are {', '.join(offered) or 'none'} here"


def load(names: Sequence[str]) -> list[Callback]:
    """Return callbacks by their names, in that order.

    Raises:
        StageError: One is not installed, can't be made, or has no method to call.
    """
    for name, fix in missing(names):
        raise StageError(f"training.callbacks: {name}: no installed package offers it", fix=fix)
    offered = installed()
    return [_made(offered[name]) for name in names]


def _made(entry: EntryPoint) -> Callback:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "of no package"
    name = f"{entry.name} ({package})"
    try:
        made = entry.load()()
    except Exception as error:
        raise StageError(f"callback {name} can't be made: {type(error).__name__}: {error}") from error
    methods = {method: getattr(made, method) for method in _METHODS if callable(getattr(made, method, None))}
    if not methods:
        raise StageError(f"callback {name} has none of {', '.join(_METHODS)}")
    return Callback(name, methods)
