"""The options of `sft export kfp` as what is settled of a pipeline. Imports no kfp until it is asked for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from sft.config.k8s_quantity import is_quantity
from sft.errors import ConfigError, Problem

TASKS = ("dataset", "training", "evaluation", "registry")
_TOLERATION = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^:]+))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?")
_MOST_RETRIES = 100


def settled(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `sft.kfp.cluster.Cluster` that were given.

    Raises:
        ConfigError: Some are wrong; all of them are said at once.
    """
    from sft.kfp.cluster import Cluster, Toleration

    given: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(Cluster) if hasattr(options, f.name)}
    problems: list[Problem] = []
    for name in ("access_modes", "pull_secrets"):
        if name in given:
            given[name] = tuple(given[name])
    for name in ("cpu", "memory", "memory_limit"):
        if name in given:
            given[name] = _of_tasks(_flag(name), given[name], _quantity, problems)
    if "timeout_seconds" in given:
        given["timeout_seconds"] = _of_tasks("--timeout", given["timeout_seconds"], _seconds, problems)
    for name, flag in (("node_selector", "--node-selector"), ("labels", "--label")):
        if name in given:
            given[name] = dict(_pairs(flag, given[name], problems))
    if "tolerations" in given:
        matches = [(text, _TOLERATION.fullmatch(text)) for text in given["tolerations"]]
        rule, fix = "must be KEY, KEY=VALUE or either with :EFFECT", "try nvidia.com/gpu:NoSchedule"
        problems += [
            Problem(key="--toleration", value=text, rule=rule, suggestion=fix) for text, match in matches if not match
        ]
        given["tolerations"] = tuple(
            Toleration(key=match["key"], value=match["value"] or "", effect=match["effect"] or "")
            for _, match in matches
            if match
        )
    for name, most in (("gpus", None), ("retries", _MOST_RETRIES)):
        if name in given and not 0 <= given[name] <= (most or given[name]):
            rule = f"must be from 0 to {most}" if most else "must not be negative"
            problems.append(Problem(key=_flag(name), value=str(given[name]), rule=rule))
    if problems:
        raise ConfigError(problems)
    return given


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _of_tasks(flag: str, texts: Sequence[str], read: Callable[[str], Any], problems: list[Problem]) -> dict[str, Any]:
    """Return the value of each task: ``VALUE`` is every task's that has no ``TASK=VALUE`` of its own."""
    every: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for text in texts:
        task, equals, plain = text.rpartition("=")
        if equals and task not in TASKS:
            problems.append(Problem(key=flag, value=text, rule=f"names no task: they are {', '.join(TASKS)}"))
            continue
        try:
            value = read(plain)
        except ValueError as error:
            problems.append(Problem(key=flag, value=text, rule=str(error)))
            continue
        if equals:
            own[task] = value
        else:
            every = dict.fromkeys(TASKS, value)
    return every | own


def _quantity(text: str) -> str:
    if not is_quantity(text):
        raise ValueError("is no amount; try 4, 500m or 16Gi")
    return text


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise ValueError("must be a number of seconds, at least 1")
    return int(text)


def _pairs(flag: str, texts: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name:
            yield name, value
        else:
            problems.append(Problem(key=flag, value=text, rule="must be LABEL=VALUE"))
