"""`sft run --from`: a recipe out of a record, and how what it makes compares with what was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft import record, self_hashed_json
from sft.config import strict_yaml
from sft.config.compose import Recipe, shipped
from sft.config.ways_out import ways_out
from sft.errors import ConfigError, DataError, Problem
from sft.files import read_document
from sft.planning.stage_spec import stage_of
from sft.redaction import MASK
from sft.scratch import scratch
from sft.stages.package import FACTS

_INTERPOLATION = re.compile(r"(?<!\\)(\\*)\$\{")


@dataclass(frozen=True)
class RecordedRun:
    """A run that is to be repeated.

    Attributes:
        file: Its record, or the ``sft.json`` that carries it.
        facts: What that says.
    """

    file: Path
    facts: Mapping[str, Any]

    def version_changes(self) -> list[str]:
        """Return the packages of which another version is installed now, each with both."""
        then, now = self.facts["versions"], record.versions()
        names = sorted({*then} | {*now})
        return [f"{n} {then.get(n, 'absent')} → {now.get(n, 'absent')}" for n in names if then.get(n) != now.get(n)]

    def comparison(self, made: record.RunRecord) -> list[str]:
        """Return which steps made what was recorded and which did not, a line for each kind."""
        then = {step["name"]: step for step in self.facts["steps"] if step["output"]}
        both = [step for step in made.steps if step.name in then and not stage_of(step.name).tells_of_its_run]
        same = [step.name for step in both if _is_same(then[step.name], step)]
        other = [step.name for step in both if step.name not in same]
        lines = {"the same as recorded": same, "not as recorded": other}
        return [f"{what}: {', '.join(names)}" for what, names in lines.items() if names]


def _is_same(then: Mapping[str, Any], now: record.StepRecord) -> bool:
    if now.name.startswith("evaluate"):  # lm-eval's files hold times; the scores are facts
        return bool(then["facts"]["scores"] == now.facts["scores"])
    return bool(then["output"] == now.output)


def find(path: Path) -> RecordedRun:
    """Return the run in a folder: of a run, or of a model.

    Raises:
        DataError: There is none, or its record was changed.
    """
    for file in (path, path / record.NAME, path / FACTS, path / "model" / FACTS):
        if file.is_file():
            try:
                facts = self_hashed_json.load_checked(read_document(file))
            except ValueError as error:
                raise DataError(f"{file}: {error}", fix="repeat the run from its recipe") from error
            return RecordedRun(file.absolute(), facts.get("record", facts))
    fix = record.nearest_run(path, "a run's folder, or a model's folder")
    raise DataError(f"--from {path}: no {record.NAME} and no {FACTS} there", fix=fix)


@contextmanager
def recipe(earlier: RecordedRun, overrides: Sequence[str], groups: Sequence[str] = ()) -> Iterator[Recipe]:
    """Give a recipe of every recorded setting, for as long as the block lasts.

    Args:
        earlier: The run.
        overrides: What is typed besides.
        groups: Whose settings are to be used, where not all are.

    Raises:
        ConfigError: The record masks a secret that `overrides` don't give again, or they choose a group, which a recipe
            that sets every value would overrule.
    """
    config = earlier.facts["config"]
    given = {text.partition("=")[0].lstrip("+") for text in overrides}
    problems = [
        Problem(key=key, rule=f"was masked in {earlier.file}", suggestion=f"give it again: {key}=…")
        for key in _masked(config)
        if key not in given and (not groups or key.partition(".")[0] in groups)
    ]
    opened = f"lets code run, or leaves a check out, in {earlier.file}"
    problems += [
        Problem(key=key, rule=opened, suggestion=f"if you trust it, say it again: {way}")
        for way in ways_out(config)
        if (key := way.partition("=")[0]) not in given and (not groups or key.partition(".")[0] in groups)
    ]
    problems += [
        Problem(key=key, rule="a record sets every value of this group", suggestion="override its settings one by one")
        for key in sorted(given)
        if (shipped("conf") / key.replace(".", "/")).is_dir()
    ]
    if problems:
        raise ConfigError(problems)
    with scratch("from") as folder:
        path = folder / "again.yaml"
        settings = {"defaults": ["config", "_self_"], **_literal(config)}
        path.write_text(strict_yaml.document(settings), encoding="utf-8")
        yield Recipe(path)


def _literal(tree: Any) -> Any:
    """Return recorded values so that OmegaConf takes them as they are: they are resolved, and no interpolation."""
    match tree:
        case str():
            return _INTERPOLATION.sub(lambda found: found[1] * 2 + r"\${", tree)
        case dict():
            return {key: _literal(value) for key, value in tree.items()}
        case list():
            return [_literal(value) for value in tree]
    return tree


def _masked(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of the values in which a secret was masked."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _masked(value, f"{prefix}{key}.")
        elif MASK in str(value):
            yield prefix + key
