"""Rules of `dataset` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat
from sft.errors import Problem

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
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


def check_dataset(cfg: DatasetConfig) -> Iterator[Problem]:
    """Yield every problem of `dataset`."""
    if cfg.eval_split is not None and cfg.eval_uri is None:
        rule, suggestion = "needs dataset.eval_uri, of which it is a split", f"try dataset.eval_uri={cfg.uri}"
        yield Problem(key="dataset.eval_split", value=cfg.eval_split, rule=rule, suggestion=suggestion)
    yield from _columns(cfg)
    fetched = {_scheme(uri) for uri in (cfg.uri, cfg.eval_uri) if uri is not None} - _NOT_FETCHED
    if cfg.max_download_bytes is not None and fetched and not fetched & {"http", "https"}:
        rule = f"bounds http:// and https://, not {', '.join(sorted(fetched))}://"
        value = str(cfg.max_download_bytes)
        yield Problem(key="dataset.max_download_bytes", value=value, rule=rule, suggestion="try null")


def _columns(cfg: DatasetConfig) -> Iterator[Problem]:
    names, untouched = cfg.columns, ColumnsConfig()
    if names.prompt == names.completion:
        rule = "is dataset.columns.prompt too: a row's question is not its answer"
        yield Problem(key="dataset.columns.completion", value=names.completion, rule=rule)
    for name in sorted(_COLUMNS - _READ[cfg.format]):
        if (value := getattr(names, name)) != getattr(untouched, name):
            rule = f"is not read with dataset.format={cfg.format.value}"
            yield Problem(key=f"dataset.columns.{name}", value=value, rule=rule, suggestion="leave it out")


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""
