"""Whatever a person types for a setting is refused under its key, or is what a run is planned with.

Every setting is tried with every odd value, in a run on this machine and in one on a cluster: as an object, which takes
no time, and all at once as overrides that Hydra composes. hypothesis tries more values, one override at a time.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sft.config.checks import check
from sft.config.compose import compose, find_recipe
from sft.config.kfp_parameters import hydra_text
from sft.config.schema import RunConfig
from sft.config.schema.bounds import out_of_bounds
from sft.errors import ConfigError, Problem
from sft.planning.environment import Environment
from sft.planning.plan import build_plan
from sft.planning.resources import resolve_resources
from tests.support.command import sft

NUMBERS = ("nan", "-inf", "-1", "0", "1e30", "1.5", "9" * 400, "9" * 5000, "true", "1e3", "²", "null")
TEXTS = ("", "a\nb", "a" * 300, "a/b", "🙂", "a\0b", " a", "\ud800", "..")
BASES = {
    "here": ["registry.address=sqlite:///mlflow.db"],
    "cluster": [
        *("training/launcher=kubeflow", "training.launcher.gpus_per_worker=0"),
        *("registry=kubeflow", "registry.address=https://registry.example", "training.env={NCCL_DEBUG: b}"),
    ],
}


def leaves(cls: Any = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and type, without its null, of every setting but flags and choices among names."""
    for name, hint in typing.get_type_hints(cls).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        [kind, *_] = [option for option in options if option not in (type(None), bool)] or [bool]
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{name}.")
        elif kind is not bool and not any(
            isinstance(t, type) and issubclass(t, Enum) for t in (kind, *typing.get_args(kind))
        ):
            yield f"{prefix}{name}", kind


def is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


LEAVES = dict(leaves())
KEYS = {kind: [key for key, hint in LEAVES.items() if hint is kind] for kind in (int, float, str)}


@functools.cache
def base(name: str) -> RunConfig:
    return compose(find_recipe("quickstart"), BASES[name])


def changed(name: str, key: str, value: Any) -> RunConfig:
    cfg = copy.deepcopy(base(name))
    group, _, field = key.rpartition(".")
    setattr(attrgetter(group)(cfg) if group else cfg, field, value)
    return cfg


def odd_values(kind: Any) -> Iterator[Any]:
    """What a setting of a type may become, once Hydra has read it."""
    item, *values = typing.get_args(kind) or (None,)
    match typing.get_origin(kind) or kind:
        case builtins if builtins in (int, float):
            yield from (kind(text) for text in ("-1", "0", "9" * 40))
            yield from (float(text) for text in ("nan", "inf", "-inf", "1.5", "1e30") if kind is float)
        case builtins if builtins is list:
            yield from ([value] for value in odd_values(item))
        case builtins if builtins is dict:
            yield from ({text: value} for text in TEXTS for value in list(odd_values(values[0]))[:1])
            yield from ({"key": value} for value in odd_values(values[0]))
        case builtins if builtins is str:
            yield from TEXTS
        case _:
            yield from (*TEXTS, float("nan"), float("-inf"), 10**40, {1: 2}, [{"a": float("nan")}])


def only_of(problems: Sequence[Problem], key: str) -> bool:
    """Whether problems speak of one setting, or of a name in it."""
    return all(problem.key == key or problem.key.startswith(f"{key}.") for problem in problems)


def test_there_are_settings_of_every_type() -> None:
    assert {key: len(keys) >= 10 for key, keys in KEYS.items()} == {int: True, float: True, str: True}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("where", BASES)
def test_an_odd_value_of_a_setting_is_refused_under_its_key_or_planned_with(where: str) -> None:
    refused, planned, elsewhere = [], [], []
    for key, kind in LEAVES.items():
        for value in odd_values(kind):
            cfg = changed(where, key, value)
            if problems := check(cfg):
                elsewhere += [] if only_of(problems, key) else [problems]
                assert all(ord(character) >= ord(" ") for problem in problems for character in str(problem))
                refused.append(key)
            else:
                assert is_planned(cfg)
                planned.append(key)
    assert elsewhere == []
    assert set(refused) == set(LEAVES)
    assert len(planned) > 100


@pytest.mark.long
@pytest.mark.parametrize("typed", NUMBERS, ids=lambda typed: typed[:9])
def test_an_odd_number_is_refused_for_every_setting_that_does_not_take_it_all_at_once(typed: str) -> None:
    keys = [*KEYS[int], *KEYS[float]]
    with pytest.raises(ConfigError) as refused:
        compose(find_recipe("quickstart"), [f"{key}={typed}" for key in keys])
    told = {problem.key for problem in refused.value.problems}
    assert {key for key in keys if not takes(key, typed)} <= told


def is_nullable(key: str) -> bool:
    """Whether the type of a setting admits null."""
    *groups, name = key.split(".")
    cls: Any = RunConfig
    for group in groups:
        cls = typing.get_type_hints(cls)[group]
    return type(None) in typing.get_args(typing.get_type_hints(cls)[name])


def takes(key: str, typed: str) -> bool:
    """Whether a setting takes a number as Hydra reads it; those that are refused by their type take none."""
    try:
        number = LEAVES[key](typed)
    except ValueError:
        return typed == "null" and is_nullable(key)
    return not any(out_of_bounds(changed("here", key, number)))


@pytest.mark.parametrize("typed", TEXTS, ids=ascii)
def test_an_odd_text_is_refused_for_every_setting_that_does_not_take_it_all_at_once(typed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose(find_recipe("quickstart"), [f"{key}={hydra_text(typed)}" for key in KEYS[str]])
    told = {problem.key for problem in refused.value.problems}
    assert {key for key in KEYS[str] if any(out_of_bounds(changed("here", key, typed)))} <= told


def is_planned(cfg: RunConfig) -> bool:
    """Plan a run on this machine, and give each step its key."""
    plan = build_plan(cfg, Environment(resources=resolve_resources(cfg.training), versions={}))
    return all(step.key(dict.fromkeys(step.needs, "")) for step in plan.steps)


OF_A_TYPE: dict[Any, st.SearchStrategy[Any]] = {int: st.integers(), float: st.floats(), str: st.text()}
TYPED = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=20).map(hydra_text),
    st.text(max_size=20),
    st.sampled_from([*NUMBERS, *TEXTS, "1_0", "0x10", "٣", "[1]", "{a: 1}", "1:30", "${x}", "a,b"]),
)
OURS = examples(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@examples(OURS, max_examples=300)
@given(
    data=st.data(),
    where=st.sampled_from(sorted(BASES)),
    key=st.sampled_from([key for keys in KEYS.values() for key in keys]),
)
def test_any_value_of_a_setting_is_refused_or_planned_with(data: st.DataObject, where: str, key: str) -> None:
    cfg = changed(where, key, data.draw(OF_A_TYPE[LEAVES[key]]))
    problems = check(cfg)
    assert all(key in f"{problem.key} {problem.rule}" or leaf(key) in problem.rule for problem in problems)
    assert problems or is_planned(cfg)


def leaf(key: str) -> str:
    return key.rpartition(".")[2]


def compose_one(key: str, typed: str) -> None:
    """Compose and plan with one override; a refusal must name its key."""
    told: tuple[Problem, ...] = ()
    try:
        assert is_planned(compose(find_recipe("quickstart"), [f"{key}={typed}"]))
    except ConfigError as error:
        told = error.problems
    assert all(key in f"{problem.key} {problem.rule}" or leaf(key) in problem.rule for problem in told)


@pytest.mark.long
@pytest.mark.slow
@examples(OURS, max_examples=15)
@given(key=st.sampled_from(sorted(LEAVES)), typed=TYPED)
def test_whatever_is_typed_for_a_setting_is_refused_under_its_key_or_planned_with(key: str, typed: str) -> None:
    compose_one(key, typed)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@examples(OURS, max_examples=300)
@given(key=st.sampled_from(sorted(LEAVES)), typed=TYPED)
def test_whatever_else_is_typed_for_a_setting_is_too(key: str, typed: str) -> None:
    compose_one(key, typed)


REFUSED = (
    *("registry.port=-5", "dataset.max_download_bytes=-1", "eval.seed=-3", "model.scratch.hidden_size=0"),
    *("model.scratch.num_hidden_layers=0", "name=", "registry.model_name=", "training.learning_rate=nan"),
    *("training.max_grad_norm=inf", "dataset.eval_split=test", "eval.batch_size=²", f"training.seed={'9' * 5000}"),
)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_command_refuses_what_can_not_be_with_2_and_every_key(command: str, tmp_path: Path) -> None:
    answer = sft(command, "quickstart", *REFUSED, cwd=tmp_path)
    assert (answer.status, answer.out) == (2, "")
    assert all(f"  - {override.partition('=')[0]}=" in answer.err for override in REFUSED)
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_name_of_any_script_names_folders(tmp_path: Path) -> None:
    name = "🙂 größer, 'quoted' \\ & 日本"
    odd = [
        f"name={hydra_text(name)}",
        f"run_root={hydra_text(f'{name}/runs')}",
        "dataset.uri=synthetic://spell-numbers",
    ]
    answer = sft("run", "quickstart", *odd, "--until", "dataset", cwd=tmp_path)
    assert answer.status == 0, answer.err
    [folder] = (tmp_path / name / "runs").glob(f"{name}-*")
    assert (folder / "run.json").is_file()
