"""The tutorial's rows are checked, and make a recipe, as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.compose import compose, find_recipe
from sft.config.schema import OnInvalid
from tests.support.command import sft_in_process
from tests.support.documented import ROOT, Block, blocks

TUTORIAL = [*blocks(ROOT / "docs" / "tutorial.md")]


def text(block: Block) -> str:
    return "".join(f"{line}\n" for _, line in block.lines)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the tutorial's rows."""
    [rows] = [block for block in TUTORIAL if block.language == "json"]
    (tmp_path / "chats.jsonl").write_text(text(rows), encoding="utf-8")
    return tmp_path


def test_the_check_prints_what_it_shows(desk: Path) -> None:
    [shown] = [text(block) for block in TUTORIAL if text(block).startswith("$ sft data check ")]
    answer = sft_in_process("data", "check", "chats.jsonl", cwd=desk)
    assert answer.status == 1, answer.err
    assert answer.out == shown.partition("\n")[2]


@pytest.mark.slow
def test_the_recipe_leaves_out_the_two_wrong_rows_and_holds_some_out(desk: Path) -> None:
    answer = sft_in_process("init", "chats.jsonl", "--yes", "dataset.train_split=0.8", cwd=desk)
    assert answer.status == 0, answer.err
    cfg = compose(find_recipe(str(desk / "recipe.yaml")), [])
    assert cfg.dataset.on_invalid is OnInvalid.drop
    assert (cfg.dataset.train_split, cfg.eval.holdout.enabled) == (0.8, True)
    assert "chats.jsonl: 20 rows, format messages; 14 to train on" in answer.out
