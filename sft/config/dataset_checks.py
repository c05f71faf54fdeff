"""Rules of `dataset` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import (
    ColumnsConfig,
    DatasetConfig,
    DatasetFormat,
    HeldOutSetConfig,
    Mixing,
    MixingStop,
    RunConfig,
    SourceConfig,
)
from sft.errors import Problem

_COLUMNS = {"messages", "prompt", "completion", "text"}
_READ = {
    DatasetFormat.auto: _COLUMNS - {"text"},
    DatasetFormat.messages: {"messages"},
    DatasetFormat.conversations: {"messages"},
    DatasetFormat.alpaca: set[str](),
    DatasetFormat.prompt_completion: {"prompt", "completion"},
    DatasetFormat.preference: _COLUMNS - {"text"},
    DatasetFormat.text: {"text"},
}
"""Settings of `dataset.columns` that a format reads."""
_MOST_SOURCES = 255


def check_dataset(run: RunConfig) -> Iterator[Problem]:
    """Yield every problem of `dataset`."""
    cfg = run.dataset
    if cfg.eval_split is not None and cfg.eval_uri is None:
        rule, suggestion = "needs dataset.eval_uri, of which it is a split", f"try dataset.eval_uri={cfg.uri}"
        yield Problem(key="dataset.eval_split", value=cfg.eval_split, rule=rule, suggestion=suggestion)
    yield from check_columns(cfg, "dataset")
    yield from _raw_text(run)
    if cfg.sources:
        yield from _sources(cfg)
        yield from _repeats(run)
    elif cfg.mixing is not Mixing.concatenate:
        rule = "mixes dataset.sources, and there are none"
        yield Problem(key="dataset.mixing", value=cfg.mixing.value, rule=rule)


def _raw_text(run: RunConfig) -> Iterator[Problem]:
    """Refuse raw text that would be held out: what scores held-out rows renders conversations."""
    cfg, rule = run.dataset, "is for training: a held-out text is not scored"
    formats = {} if cfg.sources else {"dataset.format": cfg.format}
    formats |= {f"dataset.sources.{name}.format": source.format for name, source in cfg.sources.items()}
    texts = [key for key, wanted in formats.items() if wanted is DatasetFormat.text]
    if texts and cfg.eval_uri is None and cfg.train_split < 1:
        suggestion = "try dataset.train_split=1.0, and training.validation_split for a loss on texts that don't train"
        yield Problem(key=texts[0], value="text", rule=rule, suggestion=suggestion)
    if cfg.format is DatasetFormat.text and cfg.eval_uri is not None:
        suggestion = "give conversations as eval.holdouts, and leave dataset.eval_uri out"
        yield Problem(key="dataset.format", value="text", rule=rule, suggestion=suggestion)
    for name, held_out in run.eval.holdouts.items():
        if held_out.format is DatasetFormat.text:
            yield Problem(key=f"eval.holdouts.{name}.format", value="text", rule=rule, suggestion="leave the set out")


def _sources(cfg: DatasetConfig) -> Iterator[Problem]:
    key = "dataset.sources"
    if cfg.uri:
        yield Problem(
            key=key, value=", ".join(cfg.sources), rule="are read in the place of dataset.uri: set one of both"
        )
    if cfg.split is not None:
        rule = "is not read with dataset.sources, each of which has its own"
        yield Problem(key="dataset.split", value=cfg.split, rule=rule, suggestion=f"try {key}.NAME.split={cfg.split}")
    if cfg.eval_uri is None and (cfg.format is not DatasetFormat.auto or cfg.columns != ColumnsConfig()):
        rule = "says how dataset.uri and dataset.eval_uri spell rows, and there is neither; each source has its own"
        yield Problem(key="dataset.format", value=cfg.format.value, rule=rule, suggestion=f"try {key}.NAME.format")
    if len(cfg.sources) > _MOST_SOURCES:
        yield Problem(key=key, value=f"{len(cfg.sources)} sources", rule=f"must be at most {_MOST_SOURCES}")
    for name, source in cfg.sources.items():
        yield from check_columns(source, f"{key}.{name}")
        yield from _share(source, f"{key}.{name}", cfg.mixing)
        if source.revision is not None and not _takes_revision(source.uri):
            rule = "is of a dataset of the hub (hf://org/name) whose uri names none"
            yield Problem(key=f"{key}.{name}.revision", value=source.revision, rule=rule)


def _takes_revision(uri: str) -> bool:
    """Return whether a uri may name a dataset of the hub, and names no revision of it."""
    return "@" not in uri and (uri.startswith("hf://") or ("://" not in uri and uri.count("/") == 1))


def _share(source: SourceConfig, key: str, mixing: Mixing) -> Iterator[Problem]:
    if source.weight is not None and mixing is Mixing.concatenate:
        suggestion = f"try dataset.mixing=proportional, or {key}.epochs"
        rule = "is not read with dataset.mixing=concatenate"
        yield Problem(key=f"{key}.weight", value=f"{source.weight:g}", rule=rule, suggestion=suggestion)
    if source.epochs is not None and mixing is not Mixing.concatenate:
        rule = f"is not read with dataset.mixing={mixing.value}, whose shares are by weight"
        yield Problem(key=f"{key}.epochs", value=f"{source.epochs:g}", rule=rule, suggestion=f"try {key}.weight")


def _repeats(run: RunConfig) -> Iterator[Problem]:
    """Refuse to validate on samples that may be trained too, because the mix repeats them."""
    if not run.training.validation_split:
        return
    cfg, key, value = run.dataset, "training.validation_split", f"{run.training.validation_split:g}"
    suggestion = "hold samples out with dataset.train_split or eval.holdouts, which the mix doesn't repeat"
    repeated = [name for name, source in cfg.sources.items() if source.epochs is not None and source.epochs > 1]
    if repeated:
        rule = f"would divide samples from their copies: dataset.sources.{repeated[0]}.epochs is above 1"
        yield Problem(key=key, value=value, rule=rule, suggestion=suggestion)
    elif cfg.mixing is not Mixing.concatenate and cfg.stop is MixingStop.all_exhausted:
        rule = "would divide samples from their copies: dataset.stop=all_exhausted repeats sources"
        yield Problem(key=key, value=value, rule=rule, suggestion=suggestion)


def check_columns(cfg: DatasetConfig | HeldOutSetConfig | SourceConfig, group: str) -> Iterator[Problem]:
    """Yield what is wrong with the columns of a source.

    Args:
        cfg: Settings that say where rows are.
        group: The key that holds them.
    """
    names, untouched = cfg.columns, ColumnsConfig()
    if names.prompt == names.completion:
        rule = f"is {group}.columns.prompt too: a row's question is not its answer"
        yield Problem(key=f"{group}.columns.completion", value=names.completion, rule=rule)
    for name in sorted(_COLUMNS - _READ[cfg.format]):
        if (value := getattr(names, name)) != getattr(untouched, name):
            rule = f"is not read with {group}.format={cfg.format.value}"
            yield Problem(key=f"{group}.columns.{name}", value=value, rule=rule, suggestion="leave it out")
