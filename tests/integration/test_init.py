"""`sft init` on a terminal: what it asks, and what becomes of the answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.config.compose import compose, find_recipe
from tests.support.terminal import INTERRUPT, at_terminal

pytestmark = pytest.mark.slow


def chats(file: Path) -> None:
    turns = ({"role": "user", "content": f"{n}?"} for n in range(30))
    rows = ({"messages": [turn, {"role": "assistant", "content": "Yes."}]} for turn in turns)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.long
def test_four_questions_are_asked_and_their_answers_are_in_the_recipe(tmp_path: Path) -> None:
    chats(tmp_path / "chats.jsonl")
    with at_terminal("init", cwd=tmp_path) as terminal:
        for question, answer in (
            ("data: a file, a folder or a uri", "chats.jsonl"),
            ("model: one of these, another hub id, or a folder", "Qwen/Qwen2.5-0.5B-Instruct"),
            ("train every weight or adapters (full, lora)", "perhaps"),  # it is asked again
            ("train every weight or adapters (full, lora)", "lora"),
            ("lm-eval tasks to score", "arc_easy, gsm8k"),
        ):
            terminal.wait_for(question)
            terminal.wait_for(": ")
            terminal.type(f"{answer}\n")
        assert terminal.end() == 0, terminal.shown
    cfg = compose(find_recipe(str(tmp_path / "recipe.yaml")), [])
    assert (cfg.model.name_or_path, cfg.training.lora.rank) == ("Qwen/Qwen2.5-0.5B-Instruct", 16)
    assert list(cfg.eval.tasks) == ["arc_easy", "gsm8k"]


def test_ctrl_c_at_a_question_writes_nothing(tmp_path: Path) -> None:
    chats(tmp_path / "chats.jsonl")
    with at_terminal("init", "chats.jsonl", cwd=tmp_path) as terminal:
        terminal.wait_for("model: one of these")
        assert terminal.type_until_end(INTERRUPT) == 130
    assert "Traceback" not in terminal.shown
    assert not (tmp_path / "recipe.yaml").exists()
