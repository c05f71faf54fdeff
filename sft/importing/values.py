"""Whether a value fits a setting of ours, by its type and its bounds; and values as a person sees them."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config.schema import RunConfig
from sft.config.schema.bounds import rule_of
from sft.known_secrets import is_secret_name
from sft.redaction import redact

_LONGEST = 80
MISSING = "???"
"""What stands in a recipe where a person has to fill in something."""


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(RunConfig))


def fitted(key: str, value: Any) -> Any:
    """Return a value in the type of a setting.

    Raises:
        ValueError: The setting doesn't take it: its type, its bounds, or `${…}`, which a recipe would fill in.
    """
    if value == MISSING:
        return value
    if "${" in json.dumps(value) or MISSING in (value if isinstance(value, list) else [value]):
        raise ValueError(f"{key} would be filled in by {shown(key, value)}: write the value itself")
    plain = OmegaConf.masked_copy(_schema(), [key.partition(".")[0]])
    named = re.sub(r"^(dataset\.sources)\.[^.]+\.", r"\1.", key)
    if named != key:
        return _fitted_source(named.rpartition("sources.")[2], key, value)
    try:
        OmegaConf.update(plain, key, value, merge=False)
        typed: Any = OmegaConf.select(plain, key)
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error
    typed = OmegaConf.to_container(typed, enum_to_str=True) if OmegaConf.is_config(typed) else typed
    _check(RunConfig, key.split("."), key, typed)
    return getattr(typed, "name", typed)


def _fitted_source(name: str, key: str, value: Any) -> Any:
    """Return a value of an entry of `dataset.sources`, whose settings are those of the dataset but for a few."""
    if name in ("weight", "epochs"):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{key} must be a number above 0")
        return value
    return fitted(f"dataset.{name}", value)


def _check(group: Any, path: list[str], key: str, value: Any) -> None:
    field = next(field for field in dataclasses.fields(group) if field.name == path[0])
    if len(path) > 1:
        _check(field.default_factory, path[1:], key, value)
        return
    rule = rule_of(field)
    if rule and value is not None and not isinstance(value, bool):
        for problem in rule.problems(key, value):
            raise ValueError(str(problem))


def shown(key: str, value: Any) -> str:
    """Return a value of a file in one short line, without secrets."""
    if is_secret_name(re.split(r"[.\[\]]", key)[-1]) and isinstance(value, str) and value:
        return "(a secret)"
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return a text of a file for a comment or a terminal: in one line, not all of a long one, without secrets."""
    text = redact(text)
    text = "".join(c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else " " for c in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
