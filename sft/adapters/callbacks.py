"""Owns callbacks: what installed packages want to be told of a training, from the process that watches it.

A package offers one under the entry point group ``sft.callbacks``; a recipe names it. Nothing else can be named, so a
recipe runs no code that nobody has installed. It is called with no argument, and what it returns has any of
``on_step(row)``, ``on_epoch(epoch, row)`` and ``on_end(facts)``; all are given plain data of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutinefunction
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
        except (Exception, SystemExit) as error:  # sys.exit would end the run as if it were done
            raise StageError(
                f"callback {self.name}: {method} failed: {type(error).__name__}: {error}",
                fix="mend the package, or leave it out of training.callbacks; the training continues from its last "
                "full state",
            ) from error


def installed() -> dict[str, list[EntryPoint]]:
    """Return the callbacks that installed packages offer, by name: more than one where packages offer the same."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        if entry not in found.setdefault(entry.name, []):
            found[entry.name].append(entry)
    return found


def missing(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a callback that no installed package offers, or that several do, and what to try."""
    offered = installed()
    for name in names:
        if name not in offered:
            fix = f"install the package that offers it; there are {', '.join(offered) or 'none'} here"
            yield f"training.callbacks: {name}: no installed package offers it", fix
        elif len(offered[name]) > 1:
            packages = ", ".join(map(_package, offered[name]))
            yield f"training.callbacks: {name}: is offered by {packages}", "uninstall all but one"


def load(names: Sequence[str]) -> list[Callback]:
    """Return callbacks by their names, in that order.

    Raises:
        StageError: One is not installed or offered twice, can't be made, or has no method to call.
    """
    for rule, fix in missing(names):
        raise StageError(rule, fix=fix)
    offered = installed()
    return [_made(offered[name][0]) for name in names]


def _made(entry: EntryPoint) -> Callback:
    name = f"{entry.name} ({_package(entry)})"
    try:
        made = entry.load()()
        found = {method: getattr(made, method, None) for method in _METHODS}
    except (Exception, SystemExit) as error:
        raise StageError(f"callback {name} can't be made: {type(error).__name__}: {error}") from error
    methods = {method: call for method, call in found.items() if callable(call)}
    if not methods:
        raise StageError(f"callback {name} has none of {', '.join(_METHODS)}")
    if waits := next((method for method, call in methods.items() if iscoroutinefunction(call)), None):
        raise StageError(
            f"callback {name}: {waits} is `async`, and nothing would await it", fix="make it a plain method"
        )
    return Callback(name, methods)


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "of no package"
