"""Writes a Modelfile for a GGUF file, with the chat template in Go, once both render the same prompts. A child process.

Without ``TEMPLATE``, ``ollama create`` takes the built-in template that is nearest to the file's, and may lose the
system prompt that the model was trained with. Format: https://docs.ollama.com/modelfile
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.as_saved import generation_settings
from sft.adapters.export.chat_form import Translated, translated
from sft.adapters.export.go_template import render
from sft.adapters.export.prompts import edge_cases, held_out_rows
from sft.adapters.os import child
from sft.chat.special_tokens import stops
from sft.chat.template import Message, Renderer, TemplateError
from sft.errors import StageError

MODELFILE = "Modelfile"
MOST_CONTEXT = 8192
"""Tokens of context that the file asks for at most: Ollama takes memory for all of them."""
_STRIPPED = ("nothing", "spaces around", "lines")
"""Edge cases that a template may treat otherwise without harm to others: it strips texts, which Go's can't."""
_PARAMETERS = {
    "temperature": ("temperature", 1.0),
    "top_k": ("top_k", 50),
    "top_p": ("top_p", 1.0),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repeat_penalty", 1.0),
}
"""Ollama's name of a setting, and what transformers takes where a model says nothing. Each is written: what a Modelfile
leaves out, Ollama takes from itself (0.8, 40, 0.9; penalties of 1.1 in releases before August 2026)."""
_FIX = "--to gguf, whose own template llama.cpp reads"


def _write(request: Mapping[str, Any]) -> Mapping[str, Any]:
    from transformers import AutoTokenizer

    source = Path(request["model_dir"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    ends = stops(tokenizer, source)
    renderer = Renderer(tokenizer, ends)
    if renderer.folds_system or renderer.wants_parts:
        raise StageError("--to ollama: the chat template knows no system turn, or takes lists of parts", fix=_FIX)
    form = translated(renderer)
    details, notes = compare_prompts(renderer, form, request["held_out"])
    settings, left_out = _generation(source)
    context = min(MOST_CONTEXT, request["context_length"])
    lines = [
        f"FROM ./{request['gguf']}",
        f"TEMPLATE {_quoted(form.form.template())}",
        *([f"SYSTEM {_quoted(form.system)}"] if form.system else []),
        f"PARAMETER num_ctx {context}",
        *(f'PARAMETER stop "{end}"' for end in sorted(ends)),
        *settings,
    ]
    Path(request["file"]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if context < request["context_length"]:
        notes.append(f"num_ctx is {context}, of {request['context_length']} that the model takes: edit the {MODELFILE}")
    if "tool" in str(tokenizer.chat_template):
        notes.append(f"tools: the {MODELFILE}'s template has none, the GGUF file's own has")
    return {**details, "num_ctx": context, "notes": [*notes, *left_out]}


def compare_prompts(
    renderer: Renderer, form: Translated, held_out: Sequence[Mapping[str, str]]
) -> tuple[dict[str, Any], list[str]]:
    """Return how many prompts both templates render the same, and the edge cases in which they don't, as notes.

    Args:
        renderer: The model's tokenizer and template.
        form: The translation.
        held_out: Sets: ``name``, and ``file`` with a conversation per line.

    Raises:
        StageError: A held-out sample, or a plain chat, is rendered otherwise.
    """
    template, counts = form.form.template(), {}
    for name, file in ((one["name"], one["file"]) for one in held_out):
        counts[name] = 0
        for messages, tools in held_out_rows(Path(file)):
            counts[name] += 1
            if difference := _difference(renderer, form, template, messages, tools):
                raise StageError(f"--to ollama: held-out sample {counts[name]} of {name} {difference}", fix=_FIX)
    notes = []
    edge = edge_cases(list(renderer.tokenizer.get_added_vocab()))
    for name, messages in edge.items():
        difference = _difference(renderer, form, template, messages, None)
        if difference and name not in _STRIPPED:
            raise StageError(f"--to ollama: a chat with {name} {difference}", fix=_FIX)
        if difference:
            notes.append(f"Ollama's prompt differs for a text with {name}: it {difference}")
    return {"held_out": counts, "edge_cases": len(edge) - len(notes)}, notes


def _difference(
    renderer: Renderer, form: Translated, template: str, messages: Sequence[Message], tools: Any
) -> str | None:
    """Return how the prompts of a chat differ, in words; a conversation is cut before its last answer."""
    asked = list(messages)
    while asked and asked[-1]["role"] == "assistant":
        asked.pop()
    if tools or any(message["role"] not in form.form.around or message.get("tool_calls") for message in asked):
        return "has tools, or roles that Ollama's template is not given"
    try:
        own = renderer.prompt(asked).removeprefix(form.bos)
    except TemplateError:
        return None  # such a chat the model has no prompt for
    shown = [{"role": one["role"], "content": str(one["content"])} for one in asked]
    if form.system and shown[0]["role"] != "system":
        shown.insert(0, {"role": "system", "content": form.system})
    theirs = render(template, shown)
    if theirs == own:
        return None
    place = next((i for i, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
    return f"is rendered as {own[place : place + 30]!r}, by Ollama as {theirs[place : place + 30]!r}"


def _generation(source: Path) -> tuple[list[str], list[str]]:
    """Return the parameters that say how the model writes, and a note for each setting that Ollama hasn't."""
    told = generation_settings(source)
    if told.pop("do_sample", False):
        names = list(_PARAMETERS)
        parameters = []
    else:
        names = ["repetition_penalty"]
        parameters = ["PARAMETER temperature 0"]
    for name in names:
        theirs, default = _PARAMETERS[name]
        value = told.get(name)
        parameters.append(f"PARAMETER {theirs} {default if value is None else value}")
    if told.get("repetition_penalty") is not None:
        parameters.append("PARAMETER repeat_last_n -1")  # of all tokens, as here; Ollama's own are the last 64
    if (longest := told.pop("max_new_tokens", None)) is not None:
        parameters.append(f"PARAMETER num_predict {longest}")
    return parameters, [f"generation_config.json: Ollama has no {name}" for name in told if name not in _PARAMETERS]


def _quoted(text: str) -> str:
    """Return a text as a Modelfile holds it.

    Raises:
        StageError: It holds what would end it.
    """
    if '"""' in text:
        raise StageError('--to ollama: the chat template holds """, which ends a text in a Modelfile', fix=_FIX)
    return f'"""{text}"""'


if __name__ == "__main__":
    child.main(_write)
