"""Small chat templates, a model's folder that has one, and what counts for the loss under it."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.sample_tokens import renderer
from sft.artifacts import ModelArtifact
from sft.chat.loss import NO_LOSS, TrainOn, rows
from sft.chat.template import Renderer
from sft.chat.turn_tokens import TurnFinder

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + BODY + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHAT = [
    {"role": "user", "content": "2 + 2"},
    {"role": "assistant", "content": " four\n"},
    {"role": "user", "content": "3"},
    {"role": "assistant", "content": "three"},
]


def with_template(
    template: str, base: ModelArtifact, folder: Path, *, stops: int | list[int] | None = None
) -> Renderer:
    """The model's tokenizer with a template, and perhaps other tokens at which the model stops."""
    shutil.copytree(base.model_dir, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if stops is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return renderer(str(folder))


def loss_rows(
    rendering: Renderer,
    messages: list[dict[str, Any]],
    tools: Any = None,
    *,
    train_on: TrainOn = "all_turns",
    train_on_reasoning: bool = True,
) -> list[dict[str, Any]]:
    """The rows of a conversation. Each first loss token comes after exactly what generation starts from."""
    finder, whole = TurnFinder(rendering), rendering.text(messages, tools)
    made = rows(finder, messages, whole, tools, train_on=train_on, train_on_reasoning=train_on_reasoning)
    for row in made:
        assert len(row["input_ids"]) == len(row["labels"]) == row["len"]
        assert all(label in (NO_LOSS, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    shared, own = finder.sequences(
        messages, whole, tools, [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    )
    for sequence in (shared, *own):
        for turn in sequence.turns:
            prompt = rendering.prompt(messages[: turn.number], tools)
            starts = rendering.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert sequence.token_ids[: turn.places.start] == starts
    return made


def texts(rendering: Renderer, row: dict[str, Any]) -> list[str]:
    """The texts that count in a row, one for each run of labels."""
    groups = itertools.groupby(row["labels"], key=lambda label: label != NO_LOSS)
    return [rendering.tokenizer.decode(list(group)) for counts, group in groups if counts]


def counted(rendering: Renderer, messages: list[dict[str, Any]], **settings: Any) -> list[str]:
    """The texts that count for the loss, over all rows of a conversation."""
    return [text for row in loss_rows(rendering, messages, **settings) for text in texts(rendering, row)]
