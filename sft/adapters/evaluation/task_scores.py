"""Owns which scores lm-eval's tasks give, as their YAML files say: without lm-eval, their data, or their code."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sft.adapters.evaluation import task_index
from sft.files import read_document

DEFAULT_METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
"""Of a task without a `metric_list`, by its `output_type`: registry.py:449@lm-eval 0.4.13."""
_MEANS = {"mean", "nanmean", "perplexity", "weighted_perplexity", "bits_per_byte"}
_NO_MEANS = {"f1", "matthews_corrcoef", "bleu", "chrf", "chrf++", "ter", "brier_score", "median", "bypass"}
"""lm-eval's aggregations: metrics.py@0.4.13. A function of a task's own may be either."""
_NO_MEANS_BY_NAME = {"f1", "mcc", "bleu", "chrf", "chrf++", "ter", "brier_score"}
_OF_GROUPS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata"}
"""Keys of a group that it does not pass on to its tasks: config/group.py:GroupConfig@0.4.13."""


@dataclass(frozen=True)
class TaskScores:
    """What a task, or a group, is scored for.

    Attributes:
        means: Whether each metric is a mean over samples, by its name; None = its code decides.
        filters: Names of the filters after the first, whose scores are called ``metric,filter``; None = any.
        is_complete: Whether there are no other metrics; False where code may give some.
        is_zero_shot: Whether it says that it has no examples, so that no setting gives it any; None = a group.
        writes: Whether a model writes texts for it; None = a group, or its code decides.
    """

    means: Mapping[str, bool | None]
    filters: tuple[str, ...] | None = ()
    is_complete: bool = True
    is_zero_shot: bool | None = None
    writes: bool | None = None

    def has(self, metric: str) -> bool:
        """Return whether there may be such a score."""
        name, comma, kind = metric.partition(",")
        return not self.is_complete or (
            name in self.means and (not comma or self.filters is None or kind in self.filters)
        )

    def has_no_error(self, metric: str) -> bool:
        """Return whether a metric is known to be no mean over samples, so that it has no paired error."""
        return self.means.get(metric.partition(",")[0]) is False

    def names(self) -> list[str]:
        """Return the metrics' names as gates spell them."""
        return [*self.means, *(f"{name},{kind}" for kind in self.filters or () for name in self.means)]


@dataclass
class _Function:
    """A Python function that a YAML names; it is not imported."""

    name: str


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Of YAML with `!function`."""


def _function(_: Any, node: yaml.Node) -> _Function:
    return _Function(str(node.value).rpartition(".")[2])


_Loader.add_constructor("!function", _function)


@dataclass
class _Tasks:
    """Tasks and groups by name: the files that may define each, read when they are asked for."""

    own: Path | None
    folders: set[Path] = field(default_factory=set)
    files: dict[str, list[Path]] = field(default_factory=dict)
    configs: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the configurations that define a name, or carry it as a tag, perhaps one that they include."""
        if name not in self.files:
            folders = {self.own} if self.own else set()
            for folder in sorted((folders | task_index.folders([name]).get(name, set())) - self.folders):
                self._add(folder)
        configs = [self._read(file) for file in self.files.get(name, ())]
        if any(name in (config.get("task"), config.get("group")) for config in configs):
            return configs
        folders = {folder for file in self.files.get(name, ()) for folder in self.folders if folder in file.parents}
        everything = (self._read(file) for folder in sorted(folders) for file in sorted(folder.rglob("*.yaml")))
        return [config for config in everything if name in _tags(config)]

    def _read(self, file: Path) -> dict[str, Any]:
        if file not in self.configs:
            self.configs[file] = read_task(file)
        return self.configs[file]

    def _add(self, folder: Path) -> None:
        self.folders.add(folder)
        for file in sorted(folder.rglob("*.yaml")):
            for name in task_index.names_in(file):
                self.files.setdefault(name, []).append(file)


def _tags(config: Mapping[str, Any]) -> list[str]:
    tags = config.get("tag") or []
    return [tags] if isinstance(tags, str) else tags


def task_scores(names: Iterable[str], folder: Path | None) -> dict[str, TaskScores] | None:
    """Return what scoring these tasks, groups and tags gives, by each task's and group's name.

    None where that can't be told, because a file is not as lm-eval writes its own; lm-eval then says what there is.

    Args:
        names: As `eval.tasks` has them.
        folder: With tasks of the recipe's own.
    """
    tasks, scores = _Tasks(folder), dict[str, TaskScores]()
    waiting: deque[tuple[str, Mapping[str, Any]]] = deque((name, {}) for name in names)
    seen = set()
    try:
        while waiting:
            name, overrides = waiting.popleft()
            if (name, str(overrides)) in seen:
                continue
            seen.add((name, str(overrides)))
            configs = list(tasks.named(name))
            if not configs:
                return None
            for config in configs:
                waiting.extend(_follow(name, {**config, **overrides}, overrides, scores))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return scores


def _follow(
    name: str, config: Mapping[str, Any], overrides: Mapping[str, Any], scores: dict[str, TaskScores]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Note the scores of a task or group, and yield the members of a group or tag with what it says of them."""
    if "class" not in config and "group" in config:
        if config["group"] == name:
            yield from _members(config, scores)
    elif config.get("task") == name:
        scores[name] = _of_task(config)
    elif "task" in config:  # the name is its tag
        yield config["task"], overrides


def _members(config: Mapping[str, Any], scores: dict[str, TaskScores]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    metrics = config.get("aggregate_metric_list") or []
    listed = metrics if isinstance(metrics, list) else [metrics]
    scores[config["group"]] = TaskScores({one["metric"]: None for one in listed}, filters=None)
    passed_on = {key: value for key, value in config.items() if key not in _OF_GROUPS | {"tag", "include"}}
    members = config.get("task") or []
    for member in members if isinstance(members, list) else [members]:
        if isinstance(member, str):
            yield member, passed_on
        elif "group" in member:
            raise ValueError("a group within a group is named by lm-eval")
        else:
            yield member["task"], {**passed_on, **{k: v for k, v in member.items() if k != "task"}}


def _of_task(config: Mapping[str, Any]) -> TaskScores:
    filters = [one["name"] for one in config.get("filter_list") or []]
    listed = config.get("metric_list")
    kind = config.get("output_type", "generate_until")
    if listed is None:
        listed = [{"metric": name} for name in DEFAULT_METRICS.get(kind, ())]
    means = {_name(one["metric"]): _is_mean(one) for one in listed}
    by_code = "class" in config or config.get("process_results") is not None
    return TaskScores(
        means,
        tuple(filters[1:]),
        is_complete=bool(means) and not by_code,
        is_zero_shot=config.get("num_fewshot") == 0,
        writes=None if "class" in config else kind == "generate_until",
    )


def _name(metric: Any) -> str:
    return metric.name if isinstance(metric, _Function) else str(metric)


def _is_mean(metric: Mapping[str, Any]) -> bool | None:
    how = metric.get("aggregation")
    if how is None:
        return False if metric["metric"] in _NO_MEANS_BY_NAME else None
    if isinstance(how, str):
        return True if how in _MEANS else False if how in _NO_MEANS else None
    return None


def read_task(file: Path, read: set[Path] | None = None, seen: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """Return a YAML of a task with what it includes; its own keys count.

    Args:
        file: The YAML.
        read: Gets it and the files that it includes.
        seen: Those that include it.

    Raises:
        ValueError: It includes itself, or is no mapping.
    """
    if file in seen:
        raise ValueError(f"{file} includes itself")
    if read is not None:
        read.add(file)
    config = yaml.load(read_document(file, task_index.LARGEST_BYTES), Loader=_Loader)
    if not isinstance(config, dict):
        raise ValueError(f"{file} is no mapping")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for other in included if isinstance(included, list) else [included]:
        merged |= read_task((file.parent / other).resolve(), read, seen | {file})
    return merged | config
