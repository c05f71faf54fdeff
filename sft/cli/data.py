"""`sft data check`: every row of a dataset checked, without training anything."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from sft.adapters.instructlab.packing import padding_share
from sft.artifacts import DatasetArtifact, TokenizedArtifact
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.schema import OnInvalid, OnUnrendered, RunConfig
from sft.logs import redact
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.report.data import as_html, as_json, as_text, measure
from sft.stages.dataset import dataset
from sft.stages.model import ModelInputs, model
from sft.stages.tokenize import TokenizeInputs, tokenize


def execute(uri: str, overrides: Sequence[str], *, json: bool, page: str | None) -> int:
    """Prints the report; 1 where a row is invalid.

    Args:
        uri: The dataset.
        overrides: Settings of the groups `dataset`, `model` and `training`; with one of `model`, tokens are counted.
        json: Print JSON.
        page: Write the report as HTML to this file.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The source can't be read.
    """
    base = Recipe(compose.shipped("conf") / "config.yaml")
    cfg = compose.compose(
        base, [f"dataset.uri={uri}", "dataset.on_invalid=drop", "dataset.train_split=1.0", *overrides]
    )
    progress = Progress(quiet=json)
    with tempfile.TemporaryDirectory(prefix="sft-data-") as folder:
        out = Path(folder)
        data = dataset(cfg.dataset, _made(out / "dataset"), Progress(quiet=True))
        tokens = None
        if any(text.startswith("model") for text in overrides):
            tokens = _tokens(cfg, data, out)
        padding = _padding(cfg, tokens) if tokens else None
        report = measure(data, tokens, padding)
    if page:
        Path(page).write_text(redact(as_html(report)), encoding="utf-8")
    Progress().say(as_json(report) if json else as_text(report))
    if page:
        progress.say(f"page: {page}")
    return 1 if report.num_rejected else 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tokens(cfg: RunConfig, data: DatasetArtifact, out: Path) -> TokenizedArtifact:
    quiet = Progress(quiet=True)
    base = model(cfg.model, ModelInputs(dataset=data), _made(out / "model"), quiet)
    on_unrendered = cfg.dataset.on_unrendered
    inputs = TokenizeInputs(
        dataset=data,
        model=base,
        on_invalid=OnInvalid.drop,
        on_unrendered=OnUnrendered.drop_row if on_unrendered is OnUnrendered.error else on_unrendered,
    )
    return tokenize(cfg.training, inputs, _made(out / "tokens"), quiet)


def _padding(cfg: RunConfig, tokens: TokenizedArtifact) -> float:
    resources = resolve_resources(cfg.training)
    return padding_share(
        tokens.data_file,
        batch_size=cfg.training.effective_batch_size,
        max_tokens=resources.token_budget(tokens.longest_tokens),
        num_ranks=resources.num_processes,
        seed=cfg.training.seed,
    )
