"""Rules of `dataset` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, HeldOutSetConfig, RunConfig
from sft.errors import Problem

_COLUMNS = {"messages", "prompt", "completion"}
_READ = {
    DatasetFormat.auto: _COLUMNS,
    DatasetFormat.messages: {"messages"},
    DatasetFormat.conversations: {"messages"},
    DatasetFormat.alpaca: set[str](),
    DatasetFormat.prompt_completion: {"prompt", "completion"},
    DatasetFormat.preference: _COLUMNS,
}
"""Settings of `dataset.columns` that a format reads."""


def check_dataset(run: RunConfig) -> Iterator[Problem]:
    """Yield every problem of `dataset`."""
    cfg = run.dataset
    if cfg.eval_split is not None and cfg.eval_uri is None:
        rule, suggestion = "needs dataset.eval_uri, of which it is a split", f"try dataset.eval_uri={cfg.uri}"
        yield Problem(key="dataset.eval_split", value=cfg.eval_split, rule=rule, suggestion=suggestion)
    yield from check_columns(cfg, "dataset")


def check_columns(cfg: DatasetConfig | HeldOutSetConfig, group: str) -> Iterator[Problem]:
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
