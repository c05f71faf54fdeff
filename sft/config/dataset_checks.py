"""Rules of `dataset` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, HeldOutSetConfig, RunConfig
from sft.errors import Problem

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,31})://", re.IGNORECASE)
_NOT_FETCHED = {"", "file", "pvc", "synthetic"}
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
    uris = [cfg.uri, cfg.eval_uri, *(held_out.uri for held_out in run.eval.holdouts.values())]
    fetched = {_scheme(uri) for uri in uris if uri is not None} - _NOT_FETCHED
    if cfg.max_download_bytes is not None and fetched and not fetched & {"http", "https"}:
        rule = f"bounds http:// and https://, not {', '.join(sorted(fetched))}://"
        value = str(cfg.max_download_bytes)
        yield Problem(key="dataset.max_download_bytes", value=value, rule=rule, suggestion="try null")


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


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""
