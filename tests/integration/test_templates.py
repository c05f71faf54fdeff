"""The loss mask under every chat template that trl carries: trained right, or refused with a reason. No weights."""

from __future__ import annotations

import itertools
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.loss_masks import renderer
from sft.artifacts import ModelArtifact
from sft.chat.template import Renderer, TemplateError
from sft.errors import DataError

pytestmark = [
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
TABLE = Path(__file__).parents[2] / "docs" / "templates.md"
FOLDER = Path(str(resources.files("trl"))) / "chat_templates"
TEMPLATES = sorted(FOLDER.glob("*.jinja"))
# The tokens at which models with these templates stop, eos_token first, as their repositories say.
STOPS = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "deepseek": ["<｜end▁of▁sentence｜>"],
    "diffusion_gemma": ["<eos>", "<turn|>"],
    "gemma4": ["<eos>", "<turn|>", "<|tool_response>"],
    "gemma": ["<eos>", "<end_of_turn>"],
    "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|endoftext|>", "<|call|>"],
    "idefics3": ["<end_of_utterance>"],
    "smolvlm": ["<end_of_utterance>"],
    "llama3_1": ["<|eot_id|>", "<|eom_id|>"],
    "llama3_2": ["<|eot_id|>", "<|eom_id|>"],
    "llama3": ["<|end_of_text|>", "<|eot_id|>"],
    "llava_next": ["</s>"],
    "muse_glimmer": ["<|eot|>"],
    "phi3": ["<|endoftext|>", "<|end|>"],
    "": ["<|im_end|>"],
}
ALSO_SPECIAL = re.compile(r"<\|[A-Za-z_]+\|?>|<[a-z_]+\|>|<｜[^<>｜]+｜>|<(?:start|end)_of_[a-z]+>|\[/?INST\]")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


ADD = {"name": "add", "arguments": {"first": 1, "second": 2}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"first": {"type": "number", "description": "One."}}},
    },
}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "one turn": [user("Is it blue?"), answer("Yes, it is.")],
    "several turns": [user("Is it blue?"), answer("Yes, it is."), user("And red?"), answer("No:\n\n1. never")],
    "system": [{"role": "system", "content": "Be brief."}, user("Is it blue?"), answer("Yes.")],
    "tools": [
        user("What is 1+2?"),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": ADD}]},
        {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "3"},
        answer("It is three."),
    ],
}


def stops_of(name: str) -> list[str]:
    return next(stops for family, stops in STOPS.items() if name.startswith(family))


def made(template: str, stops: list[str], base: ModelArtifact, folder: Path) -> Renderer:
    """The tiny model's tokenizer with a template and its special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.model_dir)
    special = sorted({*ALSO_SPECIAL.findall(template), *stops, "<s>"})
    tokenizer.add_special_tokens({"additional_special_tokens": special, "eos_token": stops[0], "bos_token": "<s>"})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ids = [tokenizer.convert_tokens_to_ids(stop) for stop in stops]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return renderer(str(folder))


def labelled(rendering: Renderer, messages: list[dict[str, Any]], tools: Any = None) -> list[str]:
    """The texts that count, one for each run of labels."""
    row = rendering.tokenize(messages, tools)
    assert len(row["input_ids"]) == len(row["labels"]) == row["len"]
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    groups = itertools.groupby(row["labels"], key=lambda label: label != -100)
    return [rendering.tokenizer.decode(list(group)) for counted, group in groups if counted]


def outcome(rendering: Renderer, name: str, template: str, stops: list[str]) -> tuple[str, set[str]]:
    """``trained`` or why not, and the terminators; fails where something else than the answers would be trained."""
    messages = SAMPLES[name]
    tools = [TOOL] if name == "tools" else None
    if name == "tools" and "tool" not in rendering.tokenizer.chat_template:
        return "knows none", set()
    try:
        texts = labelled(rendering, messages, tools)
    except TemplateError as error:
        return f"refused: {str(error).partition(chr(10))[0]}", set()
    except DataError as error:
        return f"refused: {error.message.partition(': ')[2].partition(';')[0]}", set()
    turns = [message for message in messages if message["role"] == "assistant"]
    assert len(texts) == len(turns)
    ends = set()
    for text, turn in zip(texts, turns, strict=True):
        [end] = [stop for stop in stops if text.endswith(stop)]
        ends.add(end)
        body = text.removesuffix(end)
        if turn["content"]:
            assert ALSO_SPECIAL.sub("", body).strip() == turn["content"]
            assert body.endswith(turn["content"]) or template.startswith("cohere2")
        else:
            assert "add" in body
            assert "assistant" not in body
    return "trained", ends


def test_every_template_is_trained_right_or_refused_with_its_reason(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    assert len(TEMPLATES) > 60
    rows = []
    for path in TEMPLATES:
        folder = tmp_path / path.stem
        folder.mkdir()
        stops = stops_of(path.stem)
        rendering = made(path.read_text(encoding="utf-8"), stops, tiny_model, folder)
        found = {name: outcome(rendering, name, path.stem, stops) for name in SAMPLES}
        ends = sorted(set().union(*(ends for _, ends in found.values())))
        cells = [path.stem, *(said for said, _ in found.values()), ", ".join(f"`{end}`" for end in ends)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = f"| template | {' | '.join(SAMPLES)} | terminator |\n|{'---|' * (len(SAMPLES) + 2)}\n"
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else "\n\n<!-- table -->\n"
    before, mark, _ = text.partition("<!-- table -->\n")
    whole = f"{before}{mark}{head}" + "\n".join(rows) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        TABLE.write_text(whole, encoding="utf-8")
    assert whole == text, "UPDATE_GOLDEN=1 accepts the change"
