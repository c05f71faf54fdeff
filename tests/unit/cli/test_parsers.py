"""What is typed for a command, and what it is without."""

from __future__ import annotations

import argparse

from sft.cli import parsers


def parsed(add: object, *arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add(parser)  # type: ignore[operator]
    return vars(parser.parse_args(arguments))


def test_a_chat_is_with_one_model_as_its_own_settings_say_unless_something_else_is_typed() -> None:
    plain = {"model": "runs/a", "base": False, "system": None, "max_tokens": None, "overrides": []}
    assert parsed(parsers.add_chat, "runs/a") == plain
    typed = parsed(parsers.add_chat, "runs/a", "--base", "--system", "Be brief.", "--max-tokens", "9")
    assert typed == {**plain, "base": True, "system": "Be brief.", "max_tokens": 9}


def test_an_archive_is_named_after_its_run_unless_something_else_is_typed() -> None:
    assert parsed(parsers.add_debug, "runs/a") == {"run": "runs/a", "output": None}


def test_a_server_is_for_this_machine_alone_unless_something_else_is_typed() -> None:
    plain = {"model": "runs/a", "host": "127.0.0.1", "port": 8000, "overrides": []}
    assert parsed(parsers.add_serve, "runs/a") == plain


def test_a_new_recipe_needs_no_flag() -> None:
    plain = {"data": "a.jsonl", "model": None, "train": None, "tasks": None, "output": "recipe.yaml", "yes": False}
    assert parsed(parsers.add_init, "a.jsonl") == {**plain, "overrides": []}
