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
SECRET = "(a secret)"
_OF_A_TOKENIZER = re.compile(r"(^|_)(pad|eos|bos|unk|eot|image|special)_tokens?$|^(add_)?tokens$|add_tokens")
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
    text = json.dumps(value, ensure_ascii=False)
    if redact(text) != text or _masked(key.rpartition(".")[2], value) != value:
        raise ValueError(f"{key} would hold a secret: give it in the environment")
    plain = OmegaConf.masked_copy(_schema(), [key.partition(".")[0]])
    if of_one := re.fullmatch(r"(?:dataset\.sources|eval\.holdouts)\.[^.]+\.(.+)", key):
        return _fitted_source(of_one[1], key, value)
    try:
        OmegaConf.update(plain, key, value, merge=False)
        typed: Any = OmegaConf.select(plain, key)
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error
    typed = OmegaConf.to_container(typed, enum_to_str=True) if OmegaConf.is_config(typed) else typed
    _check(RunConfig, key.split("."), key, typed)
    return getattr(typed, "name", typed)


def _fitted_source(name: str, key: str, value: Any) -> Any:
    """Return a value of an entry of `dataset.sources` or `eval.holdouts`, by the rules of `dataset` but for a few."""
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
    value = _masked(re.split(r"[.\[\]]", key)[-1], value)
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _masked(name: str, value: Any) -> Any:
    """Return a value without what has the name of a secret, also within it."""
    if isinstance(value, dict):
        return {key: _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(name, item) for item in value]
    is_secret = isinstance(value, str) and value and is_secret_name(name) and not _OF_A_TOKENIZER.search(name)
    return SECRET if is_secret else value


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return a text of a file for a comment or a terminal: in one line, not all of a long one, without secrets."""
    text = redact(text)
    text = "".join(c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else " " for c in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
