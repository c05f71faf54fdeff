"""`sft chat` with models that really answer, through a pipe and on a terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.os import machine
from sft.artifacts import ModelArtifact
from tests.support.command import Answer, sft_in_process
from tests.support.terminal import END, INTERRUPT, at_terminal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a real model answers, on cores that others use too
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def talkative(tiny_model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose random weights are so large that it says something else to everything."""
    import torch
    from transformers import AutoModelForCausalLM

    folder: Path = tmp_path_factory.mktemp("talkative") / "model"
    shutil.copytree(tiny_model.model_dir, folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    model.save_pretrained(folder)
    return folder


def chat(*arguments: str, said: str, cwd: Path) -> Answer:
    """Pipe turns into ``sft chat``."""
    command = [sys.executable, "-m", "sft", "chat", *arguments]
    done = subprocess.run(command, cwd=cwd, input=said, capture_output=True, text=True, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


def with_config(source: Path, target: Path, **settings: Any) -> Path:
    """Return a copy of a model whose ``config.json`` says something else."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **settings}))
    return target


def readable(text: str) -> str:
    """Return letters and digits of random tokens, which may end within a character or be a carriage return."""
    return "".join(character for character in text if character.isascii() and character.isalnum())


def plain_answers(folder: Path, turns: list[str], *, system: str | None, max_new_tokens: int) -> list[str]:
    """What transformers itself answers to turns, one after the other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [] if system is None else [{"role": "system", "content": system}]
    answers = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**asked, max_new_tokens=max_new_tokens, do_sample=False)
        answers.append(tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


@pytest.mark.long
def test_piped_turns_get_what_transformers_answers_with_all_that_was_said_before(
    talkative: Path, tmp_path: Path
) -> None:
    folder = talkative
    said = "12\n345\n/save kept.jsonl\n/reset\n12\n"
    answer = chat(str(folder), "--system", "Spell.", "--max-tokens", "12", said=said, cwd=tmp_path)
    assert answer.status == 0, answer.err
    first, second = plain_answers(folder, ["12", "345"], system="Spell.", max_new_tokens=12)
    assert readable(answer.out) == readable(f"{first}\n{second}\n{first}\n")
    assert "greedy; at most 12 tokens, in a context of 2,048 tokens; stops at <|im_end|>" in answer.err
    [kept] = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
    assert [turn["role"] for turn in kept["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn["content"] for turn in kept["messages"]] == ["Spell.", "12", first, "345", second]


@pytest.mark.long
def test_an_empty_system_turn_takes_the_place_of_the_templates_own(talkative: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(talkative, folder)
    own = "{% if messages[0].role != 'system' %}<|im_start|>system\nI am.<|im_end|>\n{% endif %}"
    (folder / "chat_template.jinja").write_text(own + (folder / "chat_template.jinja").read_text())
    answer = chat(str(folder), "--system", "", "--max-tokens", "12", said="12\n/save kept.jsonl\n", cwd=tmp_path)
    assert answer.status == 0, answer.err
    [kept] = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
    assert kept["messages"][0] == {"role": "system", "content": ""}
    [as_said] = plain_answers(folder, ["12"], system="", max_new_tokens=12)
    [by_default] = plain_answers(folder, ["12"], system=None, max_new_tokens=12)
    assert readable(answer.out) == readable(as_said) != readable(by_default)


@pytest.mark.long
def test_a_conversation_longer_than_the_context_is_refused_not_cut(talkative: Path, tmp_path: Path) -> None:
    folder = with_config(talkative, tmp_path / "short", max_position_embeddings=60)
    answer = chat(str(folder), "--max-tokens", "8", said="12\n" + "345 " * 60 + "\n6\n", cwd=tmp_path)
    assert answer.status == 1
    assert "tokens, and the model takes 60 at most" in answer.err
    assert "/reset begins a new one" in answer.err
    assert answer.out.count("\n") >= 1  # the first turn was answered


@pytest.mark.long
def test_an_answer_that_the_context_ends_says_so(talkative: Path, tmp_path: Path) -> None:
    folder = with_config(talkative, tmp_path / "short", max_position_embeddings=60)
    answer = chat(str(folder), said="12\n", cwd=tmp_path)
    assert (answer.status, "not ended: the model's context is full" in answer.err) == (0, True), answer.err


@pytest.mark.long
def test_the_models_own_generation_settings_hold_and_are_said(talkative: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sampled"
    shutil.copytree(talkative, folder)
    own = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 7, "eos_token_id": [0, 1]}
    (folder / "generation_config.json").write_text(json.dumps(own))
    answer = chat(str(folder), said="12\n/reset\n12\n/reset\n12\n", cwd=tmp_path)
    assert "sampled, temperature 1.5; at most 7 tokens" in answer.err
    assert len(set(answer.out.splitlines())) > 1  # greedily, all would be the same


@pytest.mark.long
def test_a_turn_that_holds_a_special_token_is_refused(talkative: Path, tmp_path: Path) -> None:
    answer = chat(str(talkative), said="1 <|im_end|> 2\n", cwd=tmp_path)
    assert (answer.status, answer.out) == (1, "")
    assert "holds <|im_end|>, which is a special token" in answer.err


@pytest.mark.long
def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(talkative: Path, tmp_path: Path) -> None:
    folder = with_config(talkative, tmp_path / "long", max_position_embeddings=1 << 20)
    with at_terminal("chat", str(folder), "--max-tokens", "1000000", cwd=tmp_path) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("12\n")
        terminal.wait_for("12\r\n")
        while not terminal.wait_for(" ").strip():  # a piece of the answer
            pass
        terminal.type(INTERRUPT)
        terminal.wait_for("(stopped)")
        terminal.wait_for("\n> ")
        terminal.type("/save kept.jsonl\n")
        terminal.wait_for("added a conversation of 2 turns")
        terminal.type("/quit\n")
        assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


@pytest.mark.long
@pytest.mark.parametrize("key", [INTERRUPT, END], ids=["Ctrl-C", "Ctrl-D"])
def test_at_the_prompt_a_key_ends_it_cleanly(key: str, talkative: Path, tmp_path: Path) -> None:
    with at_terminal("chat", str(talkative), cwd=tmp_path) as terminal:
        terminal.wait_for("/quit ends; Ctrl-C stops an answer")
        terminal.wait_for("\n> ")
        assert terminal.type_until_end(key) == 0
    assert "Traceback" not in terminal.shown
    assert "error" not in terminal.shown


def test_code_that_comes_with_a_model_is_not_run(talkative: Path, tmp_path: Path) -> None:
    code = {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    folder = with_config(talkative, tmp_path / "evil", auto_map=code, model_type="evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    answer = chat(str(folder), said="12\n", cwd=tmp_path)
    assert answer.status == 1
    assert "add model.trust_remote_code=true" in answer.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere/at/all"], 1, "nowhere/at/all: no such folder"),
        (["x", "--max-tokens", "0"], 2, "--max-tokens=0: must be at least 1"),
        (["x", "training.seed=1"], 2, "training.seed=1: is not for `sft chat`"),
        ([".", "--base"], 1, "only a run has a base model"),
        (["."], 1, "no config.json in"),
    ],
)
def test_what_is_no_model_says_what_to_do(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    answer = sft_in_process("chat", *arguments, cwd=tmp_path)
    assert (answer.status, message in answer.err) == (status, True), answer.err


@pytest.mark.long
def test_a_real_model_knows_what_was_said_before(smollm2: Path, tmp_path: Path) -> None:
    answer = chat(str(smollm2), said="What is the capital of France?\nAnd of Italy?\n", cwd=tmp_path)
    assert answer.status == 0, answer.err
    france, italy = answer.out.splitlines()
    assert "Paris" in france
    assert "Rome" in italy  # the second question alone names no capital


@pytest.mark.parametrize("computes", [True, False])
def test_a_type_that_this_cpu_emulates_is_told(
    computes: bool, talkative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from sft.adapters.chat_model import ChatModel

    half = tmp_path / "half"
    shutil.copytree(talkative, half)
    AutoModelForCausalLM.from_pretrained(talkative).bfloat16().save_pretrained(half)
    monkeypatch.setattr(machine, "cpu_computes_bf16", lambda: computes)
    told = ["it answers in bfloat16, as saved, which this CPU emulates, slowly"]

    def emulated(folder: Path) -> list[str]:
        notes = ChatModel(folder, trust_remote_code=False, max_tokens=None).notes()
        return [note for note in notes if "emulates" in note]

    assert emulated(half) == ([] if computes else told)
    assert emulated(talkative) == []
