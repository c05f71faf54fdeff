"""Each setting says what it may be, and one walk finds what is not so."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from sft.config.schema import DatasetConfig, RegistryConfig, RunConfig, TrainingConfig
from sft.config.schema.bounds import number, out_of_bounds, rule_of, within_bounds
from sft.config.schema.rules import Each, Groups, Number, Pairs, Rule, Text, Tree


def undeclared(cls: Any, prefix: str = "") -> Iterator[str]:
    """Keys of the settings that don't say what they may be."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, key, rule = hints[field.name], f"{prefix}{field.name}", rule_of(field)
        values = [value for value in typing.get_args(hint)[1:] if dataclasses.is_dataclass(value)]
        if dataclasses.is_dataclass(hint) or (values and isinstance(rule, Groups)):
            yield from undeclared((values or [hint])[0], f"{key}.")
        elif not says_enough(hint, rule):
            yield key


def says_enough(hint: Any, rule: Rule | None) -> bool:
    """Whether a rule leaves nothing of a type open."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [option for option in options if option is not type(None) and option is not bool]
    for kind in kinds:
        item, *values = typing.get_args(kind) or (None,)
        match typing.get_origin(kind) or kind:
            case builtins if builtins in (int, float):
                fits = isinstance(rule, Number) and not (rule.at_least is None and rule.above is None)
            case builtins if builtins is str:
                fits = isinstance(rule, Text)
            case builtins if builtins is list:
                fits = isinstance(rule, Each) or issubclass(item, Enum)
            case builtins if builtins is dict:
                fits = isinstance(rule, Tree) if values == [Any] else isinstance(rule, Pairs)
            case other:
                fits = issubclass(other, Enum)
        if not fits:
            return False
    return True


def test_every_setting_declares_its_bounds() -> None:
    assert list(undeclared(RunConfig)) == []


def test_a_setting_without_bounds_is_found() -> None:
    @dataclasses.dataclass
    class Group:
        port: int = 1
        share: float | None = number(None, at_most=1)
        name: str = ""
        tasks: list[str] = dataclasses.field(default_factory=list)
        env: dict[str, str] = dataclasses.field(default_factory=dict)
        fine: int = number(1, at_least=0)
        flag: bool = True

    assert list(undeclared(Group)) == ["port", "share", "name", "tasks", "env"]


def settings(**changes: Any) -> RunConfig:
    return RunConfig(dataset=DatasetConfig(uri="rows.jsonl"), **changes)


def test_every_default_is_within_its_bounds() -> None:
    assert list(out_of_bounds(settings())) == []


def test_what_is_out_of_bounds_is_told_with_its_dotted_key() -> None:
    training = TrainingConfig(num_epochs=0, neftune_alpha=-1.0, env={"A=B": "x"})
    cfg = settings(name="", training=training, registry=RegistryConfig(port=-5, source_id="", sign=""))
    assert [str(problem) for problem in out_of_bounds(cfg)] == [
        "name=: must not be empty",
        "training.num_epochs=0: must be above 0 and at most 1000000",
        "training.neftune_alpha=-1.0: must be at least 0 and at most 1000000, or null",
        "training.env=A=B: must be a variable's name, without =",
        "registry.port=-5: must be at least 1 and at most 65535, or null",
        "registry.source_id=: must not be empty, or null",
        "registry.sign=: must not be empty",
    ]


@pytest.mark.parametrize("sign", [True, False, "key.pem"])
def test_a_flag_or_a_path_needs_no_path(sign: bool | str) -> None:
    assert list(out_of_bounds(settings(registry=RegistryConfig(sign=sign)))) == []


def test_a_copy_within_bounds_has_defaults_for_what_was_not_and_all_else() -> None:
    training = TrainingConfig(num_epochs=0, warmup_steps=7, env={"": "x"})
    assert within_bounds(settings(name="mine", training=training)) == settings(
        name="mine", training=TrainingConfig(warmup_steps=7)
    )
    assert training.num_epochs == 0
