"""A named held-out set has the dataset's rules and no training split, and its errors name its own settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact
from sft.config.schema import (
    ColumnsConfig,
    DatasetConfig,
    DatasetFormat,
    EvalConfig,
    HeldOutSetConfig,
    OnInvalid,
    RunConfig,
)
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset
from sft.stages.held_out_set import held_out_set, source_version


def settings(uri: Path, **dataset: Any) -> RunConfig:
    support = HeldOutSetConfig(
        uri=str(uri), format=DatasetFormat.prompt_completion, columns=ColumnsConfig(prompt="q", completion="a")
    )
    return RunConfig(dataset=DatasetConfig(uri="elsewhere", **dataset), eval=EvalConfig(holdouts={"support": support}))


def prepare(cfg: RunConfig, out: Path) -> DatasetArtifact:
    out.mkdir()
    return held_out_set(cfg, "support", out, Progress(quiet=True))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("q,a\n1,one\n2,two\n1,one\n3,\n")
    return file


def test_every_row_is_held_out_once_or_counted_and_the_datasets_own_rules_are_true_of_it(
    rows: Path, tmp_path: Path
) -> None:
    cfg = settings(
        rows, on_invalid=OnInvalid.drop, system_prompt="Spell.", train_split=0.5, max_samples=1, decontaminate=True
    )
    made = prepare(cfg, tmp_path / "out")
    assert (made.num_rows, made.num_eval, made.num_duplicates, made.num_rejected, made.num_train) == (4, 2, 1, 1, 0)
    samples = [json.loads(line)["messages"] for line in made.eval_file.read_text().splitlines()]
    assert [[turn["content"] for turn in turns] for turns in samples] == [
        ["Spell.", "1", "one"],
        ["Spell.", "2", "two"],
    ]
    assert not made.train_file.read_bytes()


def test_what_is_wrong_names_the_sets_own_settings(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^eval\.holdouts\.support: 1 of 4 rows are invalid"):
        prepare(settings(rows), tmp_path / "invalid")
    rows.write_text("q,a\n")
    with pytest.raises(DataError, match=r"eval\.holdouts\.support\.uri=.*rows\.csv: no row"):
        prepare(settings(rows), tmp_path / "empty")
    with pytest.raises(DataError, match=r"eval\.holdouts\.support\.uri=.*nowhere: No such file"):
        source_version(settings(tmp_path / "nowhere"), "support")


def test_training_samples_that_share_text_with_a_set_are_dropped(rows: Path, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(20))
    rows.write_text(f"q,a\nSay,{words}\n")
    support = prepare(settings(rows), tmp_path / "support")
    train = tmp_path / "train.jsonl"
    texts = [words, *(f"answer {number}" for number in range(5))]
    turns = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": t}] for n, t in enumerate(texts)]
    train.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    out = tmp_path / "data"
    out.mkdir()
    cfg = DatasetConfig(uri=str(train), train_split=1.0, decontaminate=True)
    made = dataset(cfg, out, Progress(quiet=True), held_out_sets={"support": support.eval_file})
    assert (made.num_train, made.num_contaminated) == (5, 1)
    assert json.loads((out / "decontamination.json").read_text())["by_evaluation"] == {"support": 1}
