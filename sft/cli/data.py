"""`sft data check`: every row of a dataset checked, without training anything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sft.adapters.instructlab.padding import padding_share
from sft.artifacts import DatasetArtifact, ModelArtifact, TokenizedArtifact
from sft.cli.preview import is_color_wanted
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.kfp_parameters import hydra_text
from sft.config.schema import OnInvalid, OnTooLong, OnUnrendered, RunConfig
from sft.errors import DataError, StageError
from sft.planning.flops import attention_cost
from sft.planning.mixing import Mix
from sft.planning.model_config import read_config
from sft.planning.resources import resolve_resources
from sft.planning.row_packing import why_padded
from sft.planning.step_count import batch_size_of
from sft.progress import Progress
from sft.redaction import redact
from sft.report import preview
from sft.report.data import TRAINING_SPLIT, as_html, as_json, as_text, measure
from sft.scratch import scratch
from sft.stages.dataset import dataset
from sft.stages.decontaminate import HELD_OUT, EvaluationTasks, find
from sft.stages.held_out_set import held_out_set
from sft.stages.model import ModelInputs, model
from sft.stages.preview import first_samples
from sft.stages.tokenize import TokenizeInputs, tokenize

_OF_EVAL = ("eval.include_path", "eval.allow_task_code", "eval.holdouts")
"""Settings of `eval` that are about rows."""


def execute(
    uri: str, overrides: Sequence[str], *, json: bool, page: str | None, against_tasks: Sequence[str] = ()
) -> int:
    """Print the report and return 1 if a row is invalid.

    Args:
        uri: The dataset, or a recipe (`.yaml`) whose dataset it is.
        overrides: Settings of the groups `dataset`, `model` and `training`; with one of `model`, tokens are counted.
        json: Print JSON.
        page: Write the report as HTML to this file.
        against_tasks: lm-eval tasks whose documents are searched for in the training split.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The source can't be read.
        StageError: The documents of a task can't be had.
    """
    cfg = _settings(uri, overrides)
    tasks = EvaluationTasks(tuple(against_tasks), cfg.eval.include_path, cfg.eval.allow_task_code)
    progress = Progress(quiet=json)
    has_model = any(text.startswith("model") for text in overrides)
    for key in (text.partition("=")[0] for text in overrides):
        is_read = key.startswith(_OF_EVAL) or not key.startswith(("registry", "sweep", "eval"))
        if not is_read or (key.startswith("training") and not has_model):
            why = "no model is named, whose tokens it is of" if key.startswith("training") else "only data is checked"
            progress.say(f"- {key}: not read, since {why}")
    with scratch("data") as out:
        data = dataset(cfg.dataset, _folder(out / "dataset"), Progress(quiet=True), tasks)
        tokenizing = Progress(quiet=True)
        padding, tokens, samples = None, None, []
        if has_model:
            base, tokens = _tokens(cfg, data, out, tokenizing)
            samples = first_samples(tokens, base, 1, out / "texts")
            padding = _padding(cfg, base, tokens)
        sets = _held_out_sets(cfg, out)
        compares = data.num_eval or tasks.names or sets
        contamination = None
        if compares:
            held_out = {HELD_OUT: data.eval_file, **sets}
            contamination = find(data.train_file, held_out, tasks, out / "tasks")
        mix = _mix_of(cfg, data, tokens)
        report = measure(data, tokens, padding, contamination, samples, tokenizing.notes, mix)
    if page:
        Path(page).write_text(redact(as_html(report)), encoding="utf-8")
    Progress().say(as_json(report) if json else as_text(report))
    if samples and not json:
        sys.stdout.write(preview.as_text(samples, in_color=is_color_wanted()) + "\n")
    if page:
        progress.say(f"page: {page}")
    return 1 if report.num_invalid else 0


def data_and_longest(
    uri: str, overrides: Sequence[str], *, counts_tokens: bool
) -> tuple[DatasetArtifact, int | None, list[str]]:
    """Return what is known of a dataset, its longest sample in tokens, and the first rows that break a rule.

    Args:
        uri: The dataset.
        overrides: Settings of the groups `dataset` and `model`.
        counts_tokens: Whether the model is here, whose tokenizer counts them; else the length is None.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The source can't be read.
        StageError: The model is none.
    """
    recipe = Recipe(compose.shipped("conf") / "config.yaml")
    reading = [f"dataset.uri={hydra_text(uri)}", "dataset.on_invalid=drop", "dataset.train_split=1.0"]
    cfg = compose.compose(recipe, [*reading, *overrides])
    with scratch("data") as out:
        data = dataset(cfg.dataset, _folder(out / "dataset"), Progress(quiet=True))
        report = measure(data, None, None)
        tokens = _tokens(cfg, data, out, Progress(quiet=True))[1] if counts_tokens and data.num_train else None
        return data, tokens.longest_tokens if tokens else None, report.rejected


def _settings(uri: str, overrides: Sequence[str]) -> RunConfig:
    """Return the settings with which a dataset is checked: the defaults, or a recipe's."""
    if uri.endswith((".yaml", ".yml")):
        return compose.compose(compose.find_recipe(uri), ["dataset.on_invalid=drop", *overrides])
    own = [f"dataset.uri={uri}", "dataset.on_invalid=drop", "dataset.train_split=1.0"]
    return compose.compose(Recipe(compose.shipped("conf") / "config.yaml"), [*own, *overrides])


def _mix_of(cfg: RunConfig, data: DatasetArtifact, tokens: TokenizedArtifact | None) -> dict[str, dict[str, int]]:
    """Return how many samples of each named source there are and train; without tokens as far as rows tell."""
    if tokens and tokens.sources:
        return {name: {key: source[key] for key in ("samples", "used")} for name, source in tokens.sources.items()}
    mix = Mix.of(cfg.dataset)
    if mix is None:
        return {}
    sizes = {name: source["train"] for name, source in data.sources.items()}
    return {name: {"samples": sizes[name], "used": used} for name, used in mix.counts(sizes).items()}


def _held_out_sets(cfg: RunConfig, out: Path) -> dict[str, Path]:
    """Return the samples of each set of `eval.holdouts`, checked."""
    quiet = Progress(quiet=True)
    return {
        name: held_out_set(cfg, name, _folder(out / f"dataset-{name}"), quiet).eval_file for name in cfg.eval.holdouts
    }


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _tokens(
    cfg: RunConfig, data: DatasetArtifact, out: Path, progress: Progress
) -> tuple[ModelArtifact, TokenizedArtifact]:
    base = model(cfg.model, ModelInputs(dataset=data), _folder(out / "model"), progress)
    on_unrendered = cfg.dataset.on_unrendered
    inputs = TokenizeInputs(
        dataset=data,
        model=base,
        on_invalid=OnInvalid.drop,
        on_unrendered=OnUnrendered.drop_row if on_unrendered is OnUnrendered.error else on_unrendered,
        mix=Mix.of(cfg.dataset),
    )
    training = cfg.training
    if training.on_too_long is OnTooLong.error:
        training = replace(training, on_too_long=OnTooLong.drop)
    try:
        return base, tokenize(training, inputs, _folder(out / "tokens"), progress)
    except (DataError, StageError) as error:  # names files that are gone in a moment
        message = error.message.replace(str(data.train_file), TRAINING_SPLIT)
        raise type(error)(message, fix=error.fix) from error


def _padding(cfg: RunConfig, base: ModelArtifact, tokens: TokenizedArtifact) -> float:
    training = cfg.training
    resources, config = resolve_resources(training), read_config(base.model_dir) or {}
    return padding_share(
        tokens.data_file,
        batch_size=batch_size_of(training, tokens.num_samples),
        token_budget=resources.row_budget(tokens.longest_tokens),
        num_ranks=resources.num_sharing_batch,
        seed=training.seed if training.data_seed is None else training.data_seed,
        packs_rows=why_padded(config, resources.attention) is None,
        attention_cost=attention_cost(config, training.lora),
        context_parallel=resources.context_parallel,
    )
