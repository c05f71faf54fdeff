"""Every `sft` command that a guide shows is one that `sft` takes: arguments, recipe, settings; cheap ones run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sft.cli import _parsed, export_arguments
from sft.cli.examples import EXAMPLES
from sft.config.compose import compose, find_recipe, recipes
from sft.errors import ConfigError
from tests.support.command import sft_in_process
from tests.support.documented import GUIDES, Command, blocks, commands, is_known, of_shell

SHOWN = [*commands()]
HELP = [Command("sft --help", arguments) for typed in EXAMPLES for arguments in of_shell(typed)]
SHIPPED = {recipe.name for recipe in recipes()}
WITH_SETTINGS = {"run", "plan", "preview", "eval", "data", "register", "models", "chat", "serve", "init"}
UNCOMPOSED = re.compile(r"[…*]|,(?![^\[{]*[\]}])|\binterval\(|\bchoice\(")
"""A placeholder, or several values of a sweep."""


def parsed(command: Command) -> object:
    """What `sft` makes of the arguments; `SystemExit` where it refuses them."""
    return _parsed(export_arguments.with_system([*command.arguments]))


def overrides(command: Command) -> list[str]:
    if command.arguments[0] in ("-sc", "merge"):  # an adapter's folder has a weight
        return []
    return [word for word in command.arguments if re.match(r"[+~]*[a-z_][\w./-]*=", word)]


def test_there_are_commands_and_a_block_that_is_not_checked_says_why() -> None:
    assert len(SHOWN) > 80
    assert len(HELP) > 15
    assert {command.arguments[0] for command in SHOWN} >= WITH_SETTINGS | {"export", "compare"}
    left_out = [block for guide in GUIDES for block in blocks(guide) if block.unchecked]
    assert len(left_out) < 15
    assert all(len(str(block.unchecked).split()) > 2 for block in left_out)


@pytest.mark.parametrize("command", [*SHOWN, *HELP], ids=str)
def test_a_command_is_one_that_sft_takes(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    if command.arguments[0] in ("-sc", "--help", "--version"):
        return
    try:
        options = parsed(command)
    except SystemExit:
        pytest.fail(f"{command}\n{capsys.readouterr().err}")
    if name := getattr(options, "recipe", None):
        is_placeholder = name.isupper() or "$" in name or name.endswith((".yaml", "…"))
        assert is_placeholder or name in SHIPPED or "=" in name, f"{command}: no such recipe"
    if getattr(options, "action", None) == "copy":
        assert command.arguments[2].isupper() or command.arguments[2] in SHIPPED, f"{command}: no such recipe"


@pytest.mark.parametrize("command", [*SHOWN, *HELP], ids=str)
def test_its_settings_are_settings(command: Command) -> None:
    unknown = [word for word in overrides(command) if not is_known(word.partition("=")[0])]
    assert unknown == [], command


COMPOSED = {
    (name, tuple(words)): command
    for command in SHOWN
    if command.arguments[0] in ("run", "plan", "preview")
    and (words := [word for word in overrides(command) if not UNCOMPOSED.search(word)])
    and (name := command.arguments[1]) is not None
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMPOSED.values(), ids=str)
def test_its_settings_have_values_that_are_taken(command: Command, tmp_path: Path) -> None:
    name = command.arguments[1]
    if name not in SHIPPED:
        (tmp_path / "own.yaml").write_text(
            "defaults: [config, _self_]\ndataset: {uri: chats.jsonl}\neval: {tasks: [arc_easy, gsm8k]}\n"
        )
        name = str(tmp_path / "own.yaml")
    adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    words = [word for word in overrides(command) if not UNCOMPOSED.search(word)]
    words = [re.sub("^(model.adapter)=.*", rf"\1={tmp_path}", word) for word in words]
    open_ = ["dataset.uri=chats.jsonl"] if name in {"kfp", "kfp-pod", "original"} else []
    try:
        compose(find_recipe(name), [*open_, *words])
    except ConfigError as error:
        pytest.fail(f"{command}\n{error}")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what a reader has: chats, and a recipe for them that trains a model from scratch."""
    rows = [
        {"messages": [{"role": "user", "content": f"Spell {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(40)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    recipe = (
        "defaults: [config, override /model: scratch, _self_]\n"
        "dataset: {uri: chats.jsonl}\n"
        "training: {max_seq_len: 256}\n"
        "eval: {tasks: []}\n"
    )
    for name in ("chats.jsonl", "tickets.jsonl", "rows.jsonl"):
        (tmp_path / name).write_text(text)
    for name in ("my.yaml", "recipe.yaml", "tickets.yaml"):
        (tmp_path / name).write_text(recipe)
    return tmp_path


def is_cheap(command: Command) -> bool:
    """Whether a command asks for no network, no run and no model that is not here."""
    first, *rest = command.arguments
    if first in ("recipes", "schema"):
        return True
    if first == "plan":
        return not overrides(command) and (rest[0].startswith("quickstart") or rest[0].endswith(".yaml"))
    if first == "data":
        return rest[1].endswith(".jsonl") and not any(word.startswith(("model.", "--against")) for word in rest)
    return first == "init" and len(rest) == 1


CHEAP = {command.arguments: command for command in [*SHOWN, *HELP] if is_cheap(command)}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("command", CHEAP.values(), ids=str)
def test_a_cheap_command_does_what_it_says(command: Command, desk: Path) -> None:
    if command.arguments[0] == "init":
        (desk / "recipe.yaml").unlink()
    answer = sft_in_process(*command.arguments, cwd=desk)
    assert answer.status == 0, answer.err
    assert answer.out


def test_there_are_cheap_commands_of_each_kind() -> None:
    assert {arguments[0] for arguments in CHEAP} == {"recipes", "plan", "data", "init"}
