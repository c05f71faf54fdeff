"""Settings of the `dataset` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from sft.config.schema.bounds import each, groups, number, random_seed, setting, tree
from sft.config.schema.rules import Text
from sft.config.schema.texts import COLUMN, FREE, LINE, PATH, PATH_OR_EMPTY, matches

_SOURCE_NAME = Text(matches("[a-z][a-z0-9_]{0,63}", "must be a name of at most 64 small letters, digits and _"))


class DatasetFormat(Enum):
    """How a source row spells a conversation."""

    auto = "auto"
    messages = "messages"
    conversations = "conversations"
    alpaca = "alpaca"
    prompt_completion = "prompt_completion"
    preference = "preference"
    text = "text"


class OnInvalid(Enum):
    """What becomes of a row that breaks a rule."""

    error = "error"
    drop = "drop"


class OnUnrendered(Enum):
    """What becomes of a row with a field that the model's chat template does not render."""

    error = "error"
    warn = "warn"
    drop_row = "drop_row"


class Mixing(Enum):
    """How many samples of each of `dataset.sources` train."""

    concatenate = "concatenate"
    proportional = "proportional"
    temperature = "temperature"


class MixingStop(Enum):
    """Where a mix by shares ends."""

    first_exhausted = "first_exhausted"
    all_exhausted = "all_exhausted"


@dataclass(kw_only=True)
class ColumnsConfig:
    """Names of the source's columns."""

    messages: str = setting("messages", COLUMN)
    """Column that holds the conversation (`messages`, `conversations`)."""
    prompt: str = setting("prompt", COLUMN)
    """Column that becomes the user's turn (`format=prompt_completion`)."""
    completion: str = setting("completion", COLUMN)
    """Column that becomes the assistant's turn (`format=prompt_completion`)."""
    text: str = setting("text", COLUMN)
    """Column that holds a document (`format=text`)."""


@dataclass(kw_only=True)
class SourceConfig:
    """Where the rows of a named source are. What `dataset` says of rows is true of them too."""

    uri: str = setting(MISSING, PATH)
    """As `dataset.uri`."""
    split: str | None = setting(None, LINE)
    """As `dataset.split`."""
    revision: str | None = setting(None, LINE)
    """Branch, tag or commit of a dataset of the hub, as `@revision` in its uri; null = the newest."""
    format: DatasetFormat = DatasetFormat.auto
    """As `dataset.format`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    max_samples: int | None = number(None, at_least=1)
    """Seeded subset of the source's valid samples, before the split; null = all."""
    weight: float | None = number(None, above=0, at_most=1_000_000)
    """Its share, relative to the others' (`dataset.mixing=proportional` or `temperature`); null = 1."""
    epochs: float | None = number(None, above=0, at_most=1_000)
    """How often each of its samples is in an epoch of the training (`dataset.mixing=concatenate`): 2 = twice, 0.5 = a
    seeded half of them; null = once."""


@dataclass(kw_only=True)
class DatasetConfig:
    """Where the data is, what it looks like and how it is split."""

    uri: str = setting(MISSING, PATH_OR_EMPTY)
    """Source: a file, folder or glob; `hf://org/name[:config][@revision]`; `s3://`, `http(s)://` or whatever
    fsspec knows; `synthetic://spell-numbers?rows=3000` for data that needs no download."""
    sources: dict[str, SourceConfig] = groups(_SOURCE_NAME)
    """Several sources by name, in the place of `uri`; a row that two of them have counts once, as the first one's."""
    mixing: Mixing = Mixing.concatenate
    """How many samples of each of `sources` train: `concatenate` = all of them, times `epochs`; `proportional` = in
    shares of `weight`; `temperature` = in shares of `weight` times the source's size to the power of
    1 / `mixing_temperature`. Held-out samples are all there once."""
    mixing_temperature: float = number(1.0, at_least=1, at_most=1_000_000)
    """1 = by size (arXiv:1910.10683, section 3.5.2); the higher, the more equal the sources' shares are."""
    stop: MixingStop = MixingStop.first_exhausted
    """Where a mix by shares ends: `first_exhausted` = at the first source that is used up, so that no sample is there
    twice; `all_exhausted` = at the last one, so that no sample is left out, and smaller sources are repeated."""
    split: str | None = setting(None, LINE)
    """Split of a hub dataset, or of a folder whose files are named for splits (`train.jsonl`, `test.jsonl`); null =
    `train`, or the only one unless that holds test or validation data; `all` = every file of a folder."""
    eval_uri: str | None = setting(None, PATH)
    """A separate evaluation set, read like `uri`: `train_split` is then not applied, and training samples that share
    their `split_by` with one of it are removed from training."""
    eval_split: str | None = setting(None, LINE)
    """The same of `eval_uri`; null = its only test or validation split, or the only one."""
    format: DatasetFormat = DatasetFormat.auto
    """`auto` looks at the first row and says what it found; `messages` (OpenAI), `conversations` (ShareGPT), `alpaca`,
    two columns by name (`prompt_completion`), the chosen answers of preference data (`preference`), or raw text
    for continued pre-training (`text`); the last two are never taken by `auto`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    keep_columns: list[str] = each(COLUMN)
    """Further columns that stay with each sample, as its `metadata`; they don't take part in finding duplicates."""
    ignore_fields: list[str] = each(COLUMN)
    """Columns and fields of turns (`images`, `reasoning_content`) that are left out although a row may mean something
    else without them."""
    system_prompt: str | None = setting(None, FREE)
    """System turn put before every conversation that has none, raw text left as it is; null = none."""
    train_split: float = number(0.9, above=0, at_most=1)
    """Share of the samples to train on, in (0, 1]; the rest is held out. 1.0 = no evaluation split."""
    split_by: str = setting("prompt", COLUMN)
    """What goes to the same half of the split: `prompt` = samples with the same turns before the first answer (case and
    white space at the end don't count), `row` = nothing, or a column of the source whose value they share. With
    `eval_uri` such samples are removed from training."""
    max_samples: int | None = number(None, at_least=1)
    """Seeded subset of the valid samples; null = all. A smaller subset is part of a larger one."""
    decontaminate: bool = False
    """Drop training samples that share 13 words in a row, or a whole short prompt, with the held-out split, a set of
    `eval.holdouts`, or a document of `eval.tasks`; they stand in `contaminated.jsonl`."""
    seed: int = random_seed(42)
    """Seed of the split and of `max_samples`."""
    on_invalid: OnInvalid = OnInvalid.error
    """`error` stops at invalid rows and lists them; `drop` writes them to `rejected.jsonl` and goes on."""
    on_unrendered: OnUnrendered = OnUnrendered.error
    """What to do where the chat template does not render a part of a row (a developer turn, tools, calls of tools,
    reasoning, names): `error` stops and lists the rows, `warn` trains without that part and says how often, `drop_row`
    leaves the row out."""
    max_download_bytes: int | None = number(None, at_least=1)
    """Largest file that is fetched, and the most that a compressed one (`.gz`, `.zst`, Parquet) or a dataset of the hub
    may unfold to; null = any."""
    follow_links: bool = False
    """Also read what links in a folder lead to outside of it."""
    storage_options: dict[str, Any] = tree()
    """Passed to fsspec as they are (`endpoint_url` for an S3 server). Keys belong into the environment."""
