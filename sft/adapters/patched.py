"""Owns replacing names of a library for as long as a block runs. Standard library only.

A replacement is refused if the library has no such name (any more): otherwise it would silently do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_INHERITED = object()


@contextmanager
def patched(*replacements: tuple[object, str, object]) -> Iterator[None]:
    """Set attributes, and restore them when the block ends, the last one first.

    Args:
        replacements: Owner (a module, a class or an object), name of its attribute, and the value in its place.

    Raises:
        AttributeError: An owner has no such attribute.
    """
    with ExitStack() as restores:
        for owner, name, value in replacements:
            if not hasattr(owner, name):
                raise AttributeError(f"{getattr(owner, '__name__', owner)!s} has no {name} to replace")
            original = vars(owner).get(name, _INHERITED)  # not getattr: that would unwrap a static method
            setattr(owner, name, value)
            if original is _INHERITED:
                restores.callback(delattr, owner, name)
            else:
                restores.callback(setattr, owner, name, original)
        yield


@contextmanager
def patched_environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and restore them when the block ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
