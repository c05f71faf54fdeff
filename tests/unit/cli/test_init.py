"""`sft init`: what it sees of data and machine, what it asks, and a recipe that composes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sft.adapters.os import machine
from sft.cli import init
from sft.config.compose import compose, find_recipe
from sft.config.schema import DatasetFormat, OnInvalid
from tests.support.command import sft_in_process

CHATS = [
    {"messages": [{"role": "user", "content": f"Spell {n}."}, {"role": "assistant", "content": f"{n} it is"}]}
    for n in range(200)
]


def rows(file: Path, content: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return file


def test_the_recipe_composes_and_names_schema_and_the_commands_to_go_on(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    answer = sft_in_process("init", "chats.jsonl", "--yes", cwd=tmp_path)
    assert answer.status == 0, answer.err
    text = (tmp_path / "recipe.yaml").read_text()
    assert "# yaml-language-server: $schema=recipe.schema.json\n" in text
    assert (tmp_path / "recipe.schema.json").is_file()
    assert "#   sft run recipe.yaml " in text
    cfg = compose(find_recipe(str(tmp_path / "recipe.yaml")), [])
    assert cfg.dataset.uri == f"{tmp_path}/chats.jsonl"
    assert (cfg.dataset.train_split, cfg.training.num_epochs, cfg.training.effective_batch_size) == (0.9, 3, 8)
    assert "sft run recipe.yaml\n" in answer.out
    assert "sft chat runs/recipe-" in answer.out


@pytest.mark.parametrize(("computes", "args"), [(True, {}), (False, {"dtype": "float32"})])
def test_on_a_cpu_that_emulates_bf16_the_recipe_scores_in_fp32(
    computes: bool, args: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_computes_bf16", lambda: computes)
    rows(tmp_path / "chats.jsonl", CHATS)
    assert sft_in_process("init", "chats.jsonl", "--yes", cwd=tmp_path).status == 0
    assert compose(find_recipe(str(tmp_path / "recipe.yaml")), []).eval.model_args == args


def test_rows_that_break_a_rule_are_named_and_left_out(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", [*CHATS, {"messages": [{"role": "user", "content": "x"}]}])
    answer = sft_in_process("init", "chats.jsonl", "--yes", cwd=tmp_path)
    assert "1 row breaks a rule" in answer.out
    assert "chats.jsonl:201: no-assistant" in answer.out
    assert compose(find_recipe(str(tmp_path / "recipe.yaml")), []).dataset.on_invalid is OnInvalid.drop


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", [{**row, "label": 0} for row in CHATS])
    answer = sft_in_process("init", "chats.jsonl", "--yes", cwd=tmp_path)
    assert "not read: `label` in 200 of 200 rows" in " ".join(answer.out.split())


def test_columns_that_ask_and_answer_are_found(tmp_path: Path) -> None:
    content: list[dict[str, object]] = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(15)]
    rows(tmp_path / "qa.jsonl", content)
    answer = sft_in_process("init", "qa.jsonl", "--yes", "--output", "sub/qa.yaml", cwd=tmp_path)
    assert answer.status == 0, answer.err
    cfg = compose(find_recipe(str(tmp_path / "sub" / "qa.yaml")), [])
    assert (cfg.dataset.format, cfg.dataset.columns.prompt) == (DatasetFormat.prompt_completion, "question")
    assert cfg.dataset.uri == str(tmp_path / "qa.jsonl")  # not below the recipe's folder
    assert (cfg.dataset.train_split, cfg.eval.holdout.enabled) == (1.0, False)  # too few to hold some out


def test_flags_are_in_the_recipe(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    flags = ["--model", "Qwen/Qwen2.5-0.5B-Instruct", "--train", "lora", "--tasks", "arc_easy,gsm8k"]
    answer = sft_in_process("init", "chats.jsonl", *flags, "dataset.seed=7", cwd=tmp_path)
    assert answer.status == 0, answer.err
    cfg = compose(find_recipe(str(tmp_path / "recipe.yaml")), [])
    assert (cfg.model.name_or_path, cfg.training.lora.rank) == ("Qwen/Qwen2.5-0.5B-Instruct", 16)
    assert (list(cfg.eval.tasks), cfg.dataset.seed) == (["arc_easy", "gsm8k"], 7)


@pytest.mark.parametrize(
    ("said", "split", "holds_out", "trained"),
    [
        ("dataset.train_split=0.5", 0.5, True, 5),
        ("dataset.eval_uri=exam.jsonl", 0.9, True, 10),
        ("dataset.train_split=1.0", 1.0, False, 10),
    ],
)
def test_rows_that_are_held_out_by_hand_are_scored(
    said: str, split: float, holds_out: bool, trained: int, tmp_path: Path
) -> None:
    rows(tmp_path / "chats.jsonl", CHATS[:10])
    rows(tmp_path / "exam.jsonl", CHATS[100:105])
    answer = sft_in_process("init", "chats.jsonl", "--yes", said, cwd=tmp_path)
    assert answer.status == 0, answer.err
    cfg = compose(find_recipe(str(tmp_path / "recipe.yaml")), [])
    assert (cfg.dataset.train_split, cfg.eval.holdout.enabled) == (split, holds_out)
    assert f"= {trained} samples / {cfg.training.effective_batch_size} x " in (tmp_path / "recipe.yaml").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    (tmp_path / "recipe.yaml").write_text("mine")
    answer = sft_in_process("init", "chats.jsonl", cwd=tmp_path)
    assert (answer.status, "is there already and is not overwritten" in answer.err) == (2, True)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["a # b.jsonl", "it's: {odd}.jsonl"])
def test_a_file_of_any_name_is_read_by_the_recipe(name: str, tmp_path: Path) -> None:
    rows(tmp_path / name, CHATS)
    answer = sft_in_process("init", name, "--yes", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert compose(find_recipe(str(tmp_path / "recipe.yaml")), []).dataset.uri == f"{tmp_path}/{name}"
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["defaults"]


def test_a_recipe_that_would_be_refused_leaves_nothing_at_all(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    setting = "dataset.max_samples=-1"
    answer = sft_in_process("init", "chats.jsonl", setting, "--output", "new/folder/mine.yaml", "--yes", cwd=tmp_path)
    assert answer.status == 2, answer
    assert [path.name for path in tmp_path.iterdir()] == ["chats.jsonl"]


def test_a_recipe_that_breaks_a_rule_once_it_is_written_leaves_nothing_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    monkeypatch.setattr(init, "text_of", lambda _: "defaults: [config, _self_]\ntraining: {num_epochs: -1}\n")
    answer = sft_in_process("init", "chats.jsonl", "--output", "new/folder/mine.yaml", "--yes", cwd=tmp_path)
    assert answer.status == 2, answer
    assert [path.name for path in tmp_path.iterdir()] == ["chats.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "needs the data"),
        (["nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["bad.jsonl"], 1, "no known format has the columns odd"),
        (["chats.jsonl", "training.seed=1"], 2, "is not for `sft init`"),
        (["chats.jsonl", "--output", "config.yaml"], 2, "is not config.yaml"),
        (["chats.jsonl", "--model", "./nowhere"], 2, "no such folder"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_no_recipe(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    rows(tmp_path / "bad.jsonl", [{"odd": 1}])
    answer = sft_in_process("init", *arguments, cwd=tmp_path)
    assert (answer.status, message in answer.err) == (status, True), answer.err
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.long
@pytest.mark.parametrize("text", ["You are #1", "Answer: yes", "no", "1.10", "- a", "it's", "null and void"])
def test_what_is_typed_of_the_data_stands_in_the_recipe(text: str, tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    typed = [f"dataset.system_prompt={text}", "dataset.storage_options.endpoint_url=http://store", "dataset.seed=007"]
    answer = sft_in_process("init", "chats.jsonl", "--yes", *typed, "dataset.keep_columns=[a, 1.10]", cwd=tmp_path)
    assert answer.status == 0, answer.err
    data = compose(find_recipe(str(tmp_path / "recipe.yaml")), []).dataset
    assert (data.system_prompt, data.seed, data.keep_columns) == (text, 7, ["a", "1.10"])
    assert data.storage_options == {"endpoint_url": "http://store"}


def test_the_commands_to_go_on_can_be_typed_where_a_name_has_a_space(tmp_path: Path) -> None:
    rows(tmp_path / "chats.jsonl", CHATS)
    answer = sft_in_process("init", "chats.jsonl", "--yes", "--tasks", "none", "--output", "my own.yaml", cwd=tmp_path)
    assert "next: sft plan 'my own.yaml' " in answer.out
    assert "sft chat 'runs/my own-" in answer.out
    assert compose(find_recipe(str(tmp_path / "my own.yaml")), []).eval.tasks == []
