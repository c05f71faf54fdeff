"""`sft init`: look at somebody's data and machine, ask at most four questions, and write a recipe that runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from sft import runner
from sft.adapters.os import machine
from sft.artifacts import DatasetArtifact
from sft.cli import new_recipe
from sft.cli.data import data_and_longest
from sft.cli.init_recipe import NewRecipe, text_of
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.kfp_parameters import hydra_text
from sft.config.schema import RunConfig
from sft.errors import ConfigError, DataError, Problem, SftError
from sft.planning import recipe_choice
from sft.planning.model_config import read_model_config
from sft.planning.recipe_choice import Fit
from sft.planning.resources import resolve_resources
from sft.progress import Progress

_GIB = 2**30
_PAIRS = (("question", "answer"), ("prompt", "response"), ("input", "output"), ("query", "response"))
"""Columns that are asked and answered in, tried where no format is recognised."""
_FEWEST_TO_HOLD_OUT = 20
_HELD_OUT_BY_HAND = ("dataset.train_split=", "dataset.eval_uri=")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was said on the command line; None = to be asked, or chosen here.

    Attributes:
        lora: Whether adapters are trained; None = where nothing else fits.
        tasks: lm-eval tasks that score the model before and after.
    """

    data: str | None
    model: str | None
    lora: bool | None
    tasks: tuple[str, ...] | None
    output: str
    asks: bool


def execute(wishes: Wishes, overrides: Sequence[str]) -> int:
    """Write the recipe, and say how to go on.

    Args:
        wishes: What was typed.
        overrides: Settings of the group `dataset`, kept in the recipe.

    Raises:
        ConfigError: There is a file already where the recipe goes, a setting is wrong, or an answer is missing.
        DataError: The data can't be read, or no row is valid.
        SftError: The file can't be written.
    """
    asks = wishes.asks and sys.stdin.isatty() and sys.stdout.isatty()
    output, progress = new_recipe.free_place(wishes.output), Progress()
    if others := [text for text in overrides if not text.startswith("dataset.")]:
        rule, suggestion = "is not for `sft init`", "settings of dataset only; edit the recipe for others"
        raise ConfigError([Problem(key=text, rule=rule, suggestion=suggestion) for text in others])
    uri = wishes.data or (_ask("data: a file, a folder or a uri", None) if asks else None)
    if not uri:
        rule = "needs the data"
        raise ConfigError([Problem(key="sft init", rule=rule, suggestion="sft init chats.jsonl")])
    full, lora = _settings(uri, overrides), _settings(uri, [*overrides, "training/lora=default"])
    for line in _machine_lines(full):
        progress.say(line)
    found = dict(recipe_choice.fits(full, lora))
    model, fit = _model(wishes.model, found, full, lora, progress, asks=asks)
    data, longest, columns = _look(uri, model, overrides, progress)
    wants_lora = wishes.lora if wishes.lora is not None else bool(fit and fit.wants_lora)
    if wishes.lora is None and asks:
        best = "lora" if wants_lora else "full"
        wants_lora = _ask("train every weight or adapters (full, lora)", best, ("full", "lora")) == "lora"
    tasks = wishes.tasks
    if tasks is None:
        said = _ask("lm-eval tasks to score besides your held-out rows, as in arc_easy,gsm8k", "none") if asks else ""
        tasks = _tasks(said)
    num_ranks = resolve_resources(full.training).world_size
    is_divided = any(text.startswith(_HELD_OUT_BY_HAND) for text in overrides)
    share = 1.0 if is_divided else _split_of(data)
    batch, epochs = recipe_choice.batch_and_epochs(int(data.num_train * share), num_ranks)
    recipe = NewRecipe(
        uri=_uri_in(uri, output),
        data=data,
        settings=_kept(uri, columns),
        model=model,
        fit=fit,
        lora=wants_lora,
        tasks=tasks,
        batch=batch,
        epochs=epochs,
        learning_rate=recipe_choice.learning_rate(fit.shape if fit else None, lora=wants_lora),
        longest=longest,
        train_split=None if is_divided else share,
        output=output,
    )
    cfg = _write(recipe)
    what = "adapters" if wants_lora else "every weight"
    progress.say(f"wrote {output}: {batch} samples a step, {epochs} epochs, {what}")
    file, folder = shlex.quote(str(output)), shlex.quote(str(runner.run_folder(cfg)))
    progress.say(f"next: sft plan {file}   what it will do, and whether it fits")
    progress.say(f"      sft run {file}")
    progress.say(f"      sft chat {folder}")
    return 0


def _ask(question: str, default: str | None, choices: Sequence[str] = ()) -> str:
    """Return what is typed, one of `choices` if there are some; an empty line is the default."""
    while True:
        try:
            said = input(f"{question}{f' [{default}]' if default else ''}: ").strip()
        except EOFError:
            raise SftError("nothing was answered", fix="sft init FILE --yes asks nothing") from None
        answer = said or default
        if answer and (not choices or answer in choices):
            return answer


def _settings(uri: str, overrides: Sequence[str]) -> RunConfig:
    recipe = Recipe(compose.shipped("conf") / "config.yaml")
    base = [f"dataset.uri={hydra_text(uri)}", "dataset.train_split=1.0", "model.name_or_path=none/yet"]
    return compose.compose(recipe, [*base, *overrides])


def _kept(uri: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the settings of `dataset` that overrides set, as they are written into a recipe."""
    content = msgspec.to_builtins(_settings(uri, overrides).dataset)
    kept: dict[str, Any] = {}
    for key in dict.fromkeys(text.partition("=")[0].removeprefix("dataset.") for text in overrides):
        *groups, last = key.split(".")
        value, place = content, kept
        for group in groups:
            value, place = value[group], place.setdefault(group, {})
        place[last] = value[last]
    return kept


def _machine_lines(cfg: RunConfig) -> list[str]:
    names = machine.gpus()
    if names:
        gib = f"{machine.gpu_bytes() / _GIB:.0f} of {machine.gpu_total_bytes() / _GIB:.0f} GiB free"
        return [f"machine  {len(names)} x {names[0]}, {gib}"]
    ranks = resolve_resources(cfg.training).world_size
    free = f"{machine.host_bytes() / _GIB:.1f} GiB of memory free"
    return [f"machine  no GPU, {free}, {ranks} {'process' if ranks == 1 else 'processes'}"]


def _model(
    wish: str | None, found: Mapping[str, Fit], full: RunConfig, lora: RunConfig, progress: Progress, *, asks: bool
) -> tuple[str, Fit | None]:
    """Return the model that is to be trained, and how it fits; None if that is not known."""
    best = recipe_choice.suggested(found)
    if wish is None:
        for name, how in found.items():
            needs = f"{how.full_bytes / _GIB:6.1f} GiB whole, {how.lora_bytes / _GIB:6.1f} with LoRA"
            slow = "" if how.is_quick else "  slow here: hours on a CPU"
            progress.say(f"model    {name:<38}{needs}{'  <- suggested' if name == best else slow}")
        if best is None and not asks:
            rule = "no model of those that `sft init` knows fits this machine's memory"
            raise ConfigError([Problem(key="--model", rule=rule, suggestion="name a smaller one, or another machine")])
        wish = _ask("model: one of these, another hub id, or a folder", best) if asks else best
    name = str(wish)
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder.resolve())
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError([Problem(key=f"--model {name}", rule="no such folder")])
    config = read_model_config(_with_model(full, name).model) or recipe_choice.MODELS.get(name)
    fit = recipe_choice.fit(config, full, lora) if config else None
    if fit and not fit.fits:
        needs = f"needs {fit.lora_bytes / _GIB:.1f} GiB with LoRA, there are {fit.available_bytes / _GIB:.1f}"
        progress.say(f"warning: {name} {needs}")
    return name, fit


def _with_model(cfg: RunConfig, name: str) -> RunConfig:
    return replace(cfg, model=replace(cfg.model, name_or_path=name))


def _look(
    uri: str, model: str, overrides: Sequence[str], progress: Progress
) -> tuple[DatasetArtifact, int | None, list[str]]:
    """Return the checked data, the longest sample in tokens if the model is here, and the settings that read it.

    Raises:
        DataError: It can't be read, or no row is valid.
    """
    settings = list(overrides)
    has_tokenizer = Path(model).is_dir()

    def look() -> tuple[DatasetArtifact, int | None, list[str]]:
        named = [f"model.name_or_path={hydra_text(model)}"]
        return data_and_longest(uri, [*settings, *named], counts_tokens=has_tokenizer)

    try:
        data, longest, rejected = look()
    except DataError as error:
        if "missing-column" not in str(error) or any("columns" in text for text in overrides):
            raise
        for prompt, completion in _PAIRS:
            columns = [f"dataset.columns.prompt={prompt}", f"dataset.columns.completion={completion}"]
            settings = [*overrides, "dataset.format=prompt_completion", *columns]
            try:
                data, longest, rejected = look()
            except DataError:
                continue
            if data.num_train:
                progress.say(f"data     read as columns {prompt} and {completion}")
                break
        else:
            fix = "sft init FILE dataset.format=prompt_completion dataset.columns.prompt=… dataset.columns.completion=…"
            raise DataError(error.message, fix=fix) from error
    progress.say(f"data     {uri}: {data.num_rows:,} rows, format {data.row_format}; {data.num_train:,} to train on")
    for note in data.notes:
        progress.say(f"data     {note}")
    if rejected:
        broken = "1 row breaks" if data.num_rejected == 1 else f"{data.num_rejected:,} rows break"
        progress.say(f"data     {broken} a rule, and the recipe leaves such rows out (dataset.on_invalid):")
        for line in rejected[:3]:
            progress.say(f"           {line}")
    if longest is not None:
        progress.say(f"data     longest sample {longest:,} tokens")
    if not data.num_train:
        raise DataError(f"{uri}: no row is valid", fix="sft data check FILE lists what is wrong")
    return data, longest, settings


def _split_of(data: DatasetArtifact) -> float:
    """Return the part of the rows that trains: where there are few, none is held out."""
    return 0.9 if data.num_train >= _FEWEST_TO_HOLD_OUT else 1.0


def _uri_in(uri: str, output: Path) -> str:
    """Return a uri as it stands in a recipe: a file below the recipe's folder travels with it."""
    path = Path(uri).expanduser()
    if "://" in uri or not path.exists():
        return uri
    folder = output.absolute().parent
    if path.absolute().is_relative_to(folder) and path.absolute() != folder:
        return "${recipe_dir:}/" + path.absolute().relative_to(folder).as_posix()
    return str(path.absolute())


def _write(recipe: NewRecipe) -> RunConfig:
    """Write the recipe and the schema beside it, and return what it composes to.

    Raises:
        SftError: It can't be written.
        ConfigError: What was chosen breaks a rule; then nothing is left.
    """
    target = recipe.output
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    new_recipe.write(target, text_of(recipe))
    try:
        cfg = new_recipe.composed(target)
    except ConfigError:
        target.unlink()
        for folder in made:
            folder.rmdir()
        raise
    new_recipe.write_schema(target)
    return cfg


def _tasks(said: str) -> tuple[str, ...]:
    return () if said.strip() == "none" else tuple(filter(None, (name.strip() for name in said.split(","))))


def wishes_of(options: Any) -> Wishes:
    """Return what was typed."""
    return Wishes(
        data=options.data,
        model=options.model,
        lora=None if options.train is None else options.train == "lora",
        tasks=None if options.tasks is None else _tasks(options.tasks),
        output=options.output,
        asks=not options.yes,
    )
