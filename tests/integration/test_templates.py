"""The loss mask under every chat template that trl carries: trained right, or refused with a reason. No weights."""

from __future__ import annotations

import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.sample_tokens import renderer
from sft.artifacts import ModelArtifact
from sft.chat.loss import answered, rows
from sft.chat.template import Renderer, TemplateError
from sft.chat.turn_tokens import TurnFinder
from sft.chat.unrendered import unrendered
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
# What the model has to write between the generation prompt and its answer, white space aside.
LEADS = {"", "<think>\n\n</think>", "<think></think>", "</think>", "<|channel|>final<|message|>", "to=user<|message|>"}
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


def labelled(rendering: Renderer, messages: list[dict[str, Any]], tools: Any = None) -> tuple[list[str], int]:
    """The texts that count, in the order of the turns, and the number of rows that hold them.

    The tokens before each are exactly those from which generation starts.
    """
    finder, whole = TurnFinder(rendering), rendering.text(messages, tools)
    numbers = answered(messages)
    lost = dict(unrendered(rendering, messages, whole, tools, as_last=numbers))
    if lost:
        raise TemplateError(f"does not render {', '.join(sorted(lost))}")
    shared, own = finder.sequences(messages, whole, tools, numbers)
    texts = {}
    for sequence in (shared, *own):
        for turn in sequence.turns:
            prompt = rendering.tokenizer.apply_chat_template(
                as_given(rendering, messages[: turn.number]), tools=tools, add_generation_prompt=True, tokenize=False
            )
            starts = rendering.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert sequence.token_ids[: turn.places.start] == starts
            texts[turn.number] = rendering.tokenizer.decode(sequence.token_ids[turn.places.start : turn.places.stop])
    made = rows(finder, messages, whole, tools)
    counted = [label for row in made for label in row["labels"] if label != -100]
    assert len(counted) == sum(len(turn.places) for sequence in (shared, *own) for turn in sequence.turns)
    return [texts[number] for number in numbers], len(made)


def as_given(rendering: Renderer, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as a client of a server gives them: contents as parts, or without a system turn, where it must be so."""
    if rendering.folds_system and messages[0]["role"] == "system":
        system, first, *rest = messages
        messages = [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
    if not rendering.wants_parts:
        return messages
    return [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]


def outcome(rendering: Renderer, name: str, template: str, stops: list[str]) -> tuple[str, set[str]]:
    """``trained`` or why not, and the terminators; fails where something else than the answers would be trained."""
    messages = SAMPLES[name]
    tools = [TOOL] if name == "tools" else None
    if name == "tools" and "tool" not in rendering.tokenizer.chat_template:
        return "knows none", set()
    try:
        texts, num_rows = labelled(rendering, messages, tools)
    except TemplateError as error:
        return f"refused: {_reason(error)}", set()
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
            assert ALSO_SPECIAL.sub("", body).endswith(turn["content"])
            assert body.endswith(turn["content"]) or template.startswith("cohere2")
        else:
            assert "add" in body
        lead = body.partition(turn["content"] or "add")[0].strip()
        assert lead in LEADS or (not turn["content"] and "assistant" not in lead)
    return "trained" if num_rows == 1 else f"trained, {num_rows} samples", ends


def _reason(error: Exception) -> str:
    reason = str(error).partition("\n")[0].partition(": the model would")[0]
    return re.sub(r"generation starts after .* doesn't render", "the template doesn't render", reason)


def test_a_deepseek_template_without_its_think_mark_is_trained(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    """The remedy that docs/templates.md gives."""
    for name in ("deepseekv3", "deepseek_r1_distill"):
        text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        assert r"<think>\n" in text
        folder = tmp_path / name
        folder.mkdir()
        rendering = made(text.replace(r"<think>\n", ""), stops_of(name), tiny_model, folder)
        assert outcome(rendering, "several turns", name, stops_of(name))[0] == "trained"


@pytest.mark.long
def test_every_template_is_trained_right_or_refused_with_its_reason(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    assert len(TEMPLATES) > 60
    table = []
    for path in TEMPLATES:
        folder = tmp_path / path.stem
        folder.mkdir()
        stops = stops_of(path.stem)
        rendering = made(path.read_text(encoding="utf-8"), stops, tiny_model, folder)
        found = {name: outcome(rendering, name, path.stem, stops) for name in SAMPLES}
        ends = sorted(set().union(*(ends for _, ends in found.values())))
        cells = [path.stem, *(said for said, _ in found.values()), ", ".join(f"`{end}`" for end in ends)]
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = f"| template | {' | '.join(SAMPLES)} | terminator |\n|{'---|' * (len(SAMPLES) + 2)}\n"
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else "\n\n<!-- table -->\n"
    before, mark, _ = text.partition("<!-- table -->\n")
    whole = f"{before}{mark}{head}" + "\n".join(table) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        TABLE.write_text(whole, encoding="utf-8")
    assert whole == text, "UPDATE_GOLDEN=1 accepts the change"
