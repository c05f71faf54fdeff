"""`sft import`: what it prints and writes, and what it never overwrites."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.compose import compose, find_recipe
from tests.support.command import sft_in_process

THEIRS = """base_model: org/base
datasets: [{path: rows.jsonl, type: chat_template}]
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 2e-5
load_in_4bit: true
comet_api_key: abcdef-123456
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    file = tmp_path / "theirs.yaml"
    file.write_text(THEIRS)
    return file


def test_the_recipe_says_whose_each_setting_is_and_composes(theirs: Path) -> None:
    answer = sft_in_process("import", "theirs.yaml", "--devices", "2", cwd=theirs.parent)
    assert answer.status == 0, answer.err
    text = (theirs.parent / "recipe.yaml").read_text()
    assert "  learning_rate: 2.0e-05  # learning_rate: 2e-5\n" in text
    assert (
        "effective_batch_size: 16  # micro_batch_size: 2; micro_batch_size 2 x gradient_accumulation_steps 4 x 2"
        in text
    )
    assert "beta2: 0.999  # adam_beta2: 0.999 (axolotl's default)" in text
    assert "#   load_in_4bit: true  ->  " in text
    assert "abcdef" not in text + answer.out
    cfg = compose(find_recipe(str(theirs.parent / "recipe.yaml")), [])
    assert (cfg.training.effective_batch_size, cfg.training.learning_rate, cfg.training.beta2) == (16, 2e-5, 0.999)
    assert (cfg.dataset.uri, cfg.dataset.train_split, cfg.eval.holdout.enabled) == ("rows.jsonl", 1.0, False)
    for title in ("taken as it is: ", "has another meaning here: ", "is not here: 2", "not said there, so axolotl's"):
        assert title in answer.out
    assert "next: sft plan recipe.yaml" in answer.out


def test_what_is_left_to_fill_in_is_said_and_ends_with_1(theirs: Path) -> None:
    theirs.write_text("base_model: org/base\nsequence_len: 8\n")
    answer = sft_in_process("import", "theirs.yaml", "--output", "sub/mine.yaml", cwd=theirs.parent)
    assert answer.status == 1
    assert "left to do before it runs:\n  dataset.uri: is required" in answer.out
    assert "  uri: ???  # fill it in\n" in (theirs.parent / "sub" / "mine.yaml").read_text()


def test_nothing_is_overwritten(theirs: Path) -> None:
    (theirs.parent / "recipe.yaml").write_text("mine")
    answer = sft_in_process("import", "theirs.yaml", cwd=theirs.parent)
    assert answer.status == 2
    assert "is there already and is not overwritten" in answer.err
    assert (theirs.parent / "recipe.yaml").read_text() == "mine"
    (theirs.parent / "link.yaml").symlink_to(theirs.parent / "nowhere.yaml")
    assert sft_in_process("import", "theirs.yaml", "--output", "link.yaml", cwd=theirs.parent).status == 2


def test_a_text_like_a_number_stays_text(theirs: Path) -> None:
    theirs.write_text('base_model: org/base\ndatasets: [{path: a.jsonl, type: alpaca}]\nrevision_of_model: "123e456"\n')
    assert sft_in_process("import", "theirs.yaml", cwd=theirs.parent).status == 0
    cfg = compose(find_recipe(str(theirs.parent / "recipe.yaml")), [])
    assert cfg.model.revision == "123e456"


def test_hostile_text_stays_in_its_comment(theirs: Path) -> None:
    theirs.write_text('base_model: "x\\ndataset: {uri: evil}"\nwandb_name: "a\\n  seed: 666"\nsequence_len: 8\n')
    sft_in_process("import", "theirs.yaml", cwd=theirs.parent)
    text = (theirs.parent / "recipe.yaml").read_text()
    assert not [line for line in text.splitlines() if line.startswith(("dataset: {", "  seed: 666"))]
