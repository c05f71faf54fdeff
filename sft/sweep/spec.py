"""What a sweep is: which settings vary, what samples them, what launches the points; and every point's configuration.

Hydra runs it. What becomes of a point is `sft.sweep.records` and `sft.sweep.run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from omegaconf import DictConfig, OmegaConf

from sft.config import compose
from sft.config.compose import Recipe
from sft.config.diagnose import is_override, missing_extra
from sft.config.hydra_settings import check_hydra
from sft.config.schema import RunConfig
from sft.config.setting_names import is_whole_number
from sft.errors import ConfigError, Problem


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep over a recipe.

    Attributes:
        recipe: That it is over.
        sweeper: Hydra's, by name: ``basic`` takes every combination, ``optuna`` samples.
        launcher: Hydra's, by name: ``basic`` runs the points here, one after the other.
        overrides: All of them as Hydra wants them, those that vary among them; none of Hydra's own settings.
        own: Overrides of Hydra's own settings.
        is_written: Whether the recipe says what varies.
        num_jobs: Points at once, where the launcher is told.
        direction: What the sampler was told, ``minimize`` or ``maximize``; empty where nobody said.
    """

    recipe: Recipe
    sweeper: str
    launcher: str
    overrides: tuple[str, ...]
    own: tuple[str, ...]
    is_written: bool = False
    num_jobs: int | None = None
    direction: str = ""

    @property
    def samples(self) -> bool:
        """Whether the points are known only as the sweep goes on."""
        return self.sweeper != "basic"

    @property
    def varied(self) -> dict[str, str]:
        """What varies: the values of each setting or group, as they were written."""
        parsed = map(_parsed, self.overrides)
        return {o.get_key_element().lstrip("+"): _text(o) for o in parsed if o.is_sweep_override()}

    def points(self) -> list[list[str]]:
        """Return the overrides of every point of a sweep that doesn't sample, in Hydra's order."""
        [batch] = BasicSweeper.split_arguments([_parsed(text) for text in self.overrides], None)
        return batch

    def ends(self) -> list[list[str]]:
        """Return overrides that hold each value once, or the ends of an interval; the others stay at their first."""
        values = [_ends(_parsed(text), text) for text in self.overrides]
        first = [ends[0] for ends in values]
        others = (
            [*first[:place], other, *first[place + 1 :]] for place, ends in enumerate(values) for other in ends[1:]
        )
        return [first, *others]


def read(recipe: Recipe, overrides: Sequence[str], *, asked: bool) -> Sweep | None:
    """Return the sweep that a recipe with overrides is; None if it is one run.

    A recipe that says what varies (``hydra.sweeper.params``) is a sweep, unless ``hydra.mode=RUN``.

    Args:
        recipe: The recipe.
        overrides: As a person types them, without flags.
        asked: Whether ``-m`` was given.

    Raises:
        ConfigError: What can't be composed, a launcher that is not installed, nothing that varies, an interval without
            a sampler.
    """
    texts = compose.as_hydra(overrides)
    own = tuple(text for text in texts if text.lstrip("+~").startswith(("hydra.", "hydra/")))
    rest = [text for text in texts if text not in own]
    _refuse_broken(own)
    if varied := [override for override in map(_parsed, own) if override.is_sweep_override()]:
        rule = "Hydra's own settings can't vary"
        raise ConfigError([Problem(key=one.get_key_element(), value=_text(one), rule=rule) for one in varied])
    try:
        hydra = _hydra(recipe, own)
    except compose.COMPOSITION_ERRORS as error:
        raise ConfigError(_problems(recipe, rest, own, error, asked=asked)) from error
    params = _params(hydra)
    mode = hydra.mode.name if hydra.mode is not None else ""
    if not asked and mode != "MULTIRUN" and (mode == "RUN" or not params):
        return None
    given = {text.partition("=")[0].lstrip("+~") for text in rest}
    written = compose.as_hydra([f"{key}={value}" for key, value in params.items()])
    written = [text for text in written if text.partition("=")[0].lstrip("+~") not in given]
    _refuse_broken([*written, *rest])
    choices = hydra.runtime.choices
    launcher, sweeper = str(choices["hydra/launcher"]), str(choices["hydra/sweeper"])
    found = Sweep(
        recipe=recipe,
        sweeper=sweeper,
        launcher=launcher,
        overrides=(*written, *rest),
        own=own,
        is_written=bool(params),
        num_jobs=hydra.launcher.n_jobs if launcher == "joblib" else None,
        direction=_said(recipe, own, "direction"),
    )
    problems = list(_unsweepable(found))
    if problems:
        raise ConfigError(problems)
    return found


def refuse_sweep(recipe: Recipe, overrides: Sequence[str], what: str) -> None:
    """Refuse a recipe that is a sweep where one run is wanted.

    Args:
        recipe: The recipe.
        overrides: As a person types them.
        what: What can't be done with a sweep.

    Raises:
        ConfigError: It is a sweep.
    """
    if sweep := read(recipe, overrides, asked=False):
        rule = f"is a sweep over {', '.join(sweep.varied)}, and {what} is one run"
        suggestion = "leave hydra.sweeper.params out of the recipe"
        raise ConfigError([Problem(key=str(recipe.path), rule=rule, suggestion=suggestion)])


def check(sweep: Sweep) -> list[RunConfig]:
    """Compose every point, or of a sampler each end, before any runs.

    Returns:
        The points' configurations, in Hydra's order; of a sampler those of the ends.

    Raises:
        ConfigError: With every problem there is.
    """
    problems: dict[str, Problem] = {}
    points = []
    for point in sweep.ends() if sweep.samples else sweep.points():
        try:
            points.append(compose.compose(sweep.recipe, point))
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    launcher = points[0].training.launcher if points else None
    if launcher and sweep.samples and not launcher.is_remote and launcher.num_workers > 1:
        rule = "only the first of several nodes has the scores that a sampler needs"
        problems[rule] = Problem(key="hydra/sweeper", value=sweep.sweeper, rule=rule, suggestion="sweep a grid")
    if problems:
        raise ConfigError(list(problems.values()))
    return points


def _hydra(recipe: Recipe, own: Sequence[str]) -> DictConfig:
    """Return Hydra's own settings, composed.

    Raises:
        ConfigError: They would load or run something.
    """
    compose.prepare(recipe)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(recipe.path.parent), version_base="1.3", job_name="sft"):
        composed = hydra_compose(recipe.path.stem, [*compose.defaults_of(recipe), *own], return_hydra_config=True)
    if problems := check_hydra(composed):
        raise ConfigError(problems)
    hydra: DictConfig = composed.hydra
    return hydra


def _params(hydra: DictConfig) -> Mapping[str, str]:
    params = OmegaConf.select(hydra, "sweeper.params")
    return {} if params is None else {str(key): str(value) for key, value in params.items()}


def _said(recipe: Recipe, own: Sequence[str], name: str) -> str:
    """Return what was written for a setting of Hydra's sweeper: the last override, else the recipe; else empty."""
    for text in reversed(own):
        key, _, value = text.partition("=")
        if key.lstrip("+") == f"hydra.sweeper.{name}":
            return value
    content: Any = OmegaConf.create(yaml.safe_load(recipe.path.read_text(encoding="utf-8")))
    return str(OmegaConf.select(content, f"hydra.sweeper.{name}") or "")


def _unsweepable(sweep: Sweep) -> Iterator[Problem]:
    varied = [override for override in map(_parsed, sweep.overrides) if override.is_sweep_override()]
    if not varied:
        suggestion = "try training.learning_rate=1e-5,5e-6, or write hydra.sweeper.params into the recipe"
        yield Problem(key="-m", rule="nothing varies", suggestion=suggestion)
    for override in varied:
        key = override.get_key_element()
        if key.lstrip("+").partition(".")[0] in {"sweep", "run_root"}:
            rule = "is of the whole sweep, whose points differ in what they train or score"
            yield Problem(key=key, value=_text(override), rule=rule, suggestion="give it one value")
        elif override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            yield Problem(key=key, value=_text(override), rule="the choices must be named", suggestion="try a,b")
        elif sweep.samples and override.is_range_sweep():
            rule, suggestion = "a sampler would take the end of a range, too", "write choice(…) or int(interval(…))"
            yield Problem(key=key, value=_text(override), rule=rule, suggestion=suggestion)
        elif not sweep.samples and not override.is_discrete_sweep():
            rule, suggestion = "an interval needs a sampler", "add hydra/sweeper=optuna"
            yield Problem(key=key, value=_text(override), rule=rule, suggestion=suggestion)
        elif is_whole_number(key) and _is_fractional(override.value()):
            suggestion = "write int(interval(…))"
            yield Problem(key=key, value=_text(override), rule="must be whole numbers", suggestion=suggestion)


def _refuse_broken(overrides: Sequence[str]) -> None:
    problems = [
        Problem(key=text, rule="is not an override", suggestion="write key=value,value")
        for text in overrides
        if not is_override(text)
    ]
    if problems:
        raise ConfigError(problems)


def _parsed(text: str) -> Override:
    override: Override = OverridesParser.create().parse_override(text)
    return override


def _is_fractional(value: object) -> bool:
    """Return whether a sampler would take any number of an interval, as Hydra has it unless it is told `int`."""
    return isinstance(value, IntervalSweep) and float in {type(value.start), type(value.end)}


def _text(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _ends(override: Override, text: str) -> list[str]:
    if not override.is_sweep_override():
        return [text]
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={one}" for one in override.sweep_string_iterator()]


def _problems(
    recipe: Recipe, overrides: Sequence[str], own: Sequence[str], error: Exception, *, asked: bool
) -> list[Problem]:
    """Return what is wrong if Hydra's own settings can't be composed: with them, or with the recipe and each value."""
    if problem := missing_extra(error):
        return [problem]
    values = [_ends(_parsed(text), text) if asked and is_override(text) else [text] for text in overrides]
    found: dict[str, Problem] = {}
    for point in [[ends[0] for ends in values], *([end] for ends in values for end in ends[1:])]:
        try:
            compose.compose(recipe, point)
        except ConfigError as failed:
            found |= {str(problem): problem for problem in failed.problems}
    return list(found.values()) or [Problem(key=" ".join(own) or recipe.name, rule=" ".join(str(error).split()))]
