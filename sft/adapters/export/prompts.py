"""Whether an exported model gets the same prompt tokens as the original: on held-out rows, and on texts at the edge.

Runs in a child process, with two loaded tokenizers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.chat.template import Message, Renderer, TemplateError
from sft.errors import StageError

MOST_ROWS = 2000
"""Of each held-out set that are looked at: the first ones."""
DECOMPOSED = "a letter and its accent as two characters"
_QUESTION: Message = {"role": "user", "content": "question"}
_ANSWER: Message = {"role": "assistant", "content": "answer"}
_TEXTS = {
    "nothing": "",
    "spaces around": "  two spaces and a line \n",
    "lines": "one\n\n\ntwo\r\n\tthree   four\n \n",
    "digits": "1234567 3.14159 2026-11-27 0x7f",
    "capital contractions": "IT'S they'LL I'd",
    "other alphabets": "Ünïcödé Ελληνικά 漢字かな العربية हिन्दी",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 ½",
    "code": 'def f(x):\n    return {\'a\': [x**2, "b"]}  # <tag attr="1">',
    DECOMPOSED: "e\u0301 n\u0303",
}


def edge_cases(special: Sequence[str]) -> dict[str, list[Message]]:
    """Return conversations at the edge, by what is special about them; each ends before an answer.

    Args:
        special: Texts of the tokenizer's added tokens.
    """
    cases: dict[str, list[Message]] = {name: [{"role": "user", "content": text}] for name, text in _TEXTS.items()}
    cases["a token's text"] = [{"role": "user", "content": f"say {' '.join(special[:8])} please"}]
    cases["a system turn"] = [{"role": "system", "content": "instruction"}, _QUESTION]
    cases["several turns"] = [_QUESTION, _ANSWER, {"role": "user", "content": "again"}]
    return cases


def compare_prompts(original: Renderer, exported: Renderer, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many prompts were compared, and the edge cases that differ without doing harm.

    Args:
        original: Tokenizer and template of the run's model.
        exported: Of the export, as it was read back.
        files: Held-out sets: ``name``, and ``file`` with a conversation per line.

    Raises:
        StageError: A prompt differs.
    """
    counts: dict[str, int] = {}
    notes = []
    for held_out in files:
        counts[held_out["name"]] = 0
        for messages, tools in held_out_rows(Path(held_out["file"])):
            counts[held_out["name"]] += 1
            if difference := _difference(original, exported, messages, tools):
                where = f"held-out sample {counts[held_out['name']]} of {held_out['name']}"
                raise StageError(f"{where} has other prompt tokens in the export: {difference}", fix=_FIX)
    edge = edge_cases(list(original.tokenizer.get_added_vocab()))
    for name, messages in edge.items():
        difference = _difference(original, exported, messages, None)
        if difference and name == DECOMPOSED and original.tokenizer.backend_tokenizer.normalizer is not None:
            notes.append(f"prompt tokens differ for {name}: {difference}")
        elif difference:
            raise StageError(f"a prompt with {name} has other tokens in the export: {difference}", fix=_FIX)
    return {"held_out": counts, "edge_cases": len(edge), "notes": notes}


def held_out_rows(file: Path) -> Iterator[tuple[list[Message], Any]]:
    """Yield the first conversations of a held-out set, each with its tools."""
    with file.open("rb") as lines:
        for line in itertools.islice(lines, MOST_ROWS):
            row = json.loads(line)
            yield row["messages"], row.get("tools")


def _difference(original: Renderer, exported: Renderer, messages: Sequence[Message], tools: Any) -> str | None:
    """Return the first difference in words; None if the two agree, also in that they can't render it."""
    ids = [_ids(renderer, messages, tools) for renderer in (original, exported)]
    if ids[0] == ids[1]:
        return None
    if isinstance(ids[0], str) or isinstance(ids[1], str):
        shown = [one if isinstance(one, str) else f"{len(one)} tokens" for one in ids]
        return f"{shown[0]}, and then {shown[1]}"
    place = next((i for i, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]), min(map(len, ids)))
    shown = [
        renderer.tokenizer.convert_ids_to_tokens(one[place : place + 4])
        for renderer, one in zip((original, exported), ids, strict=True)
    ]
    return f"from token {place} on {shown[0]}, and then {shown[1]}"


def _ids(renderer: Renderer, messages: Sequence[Message], tools: Any) -> list[int] | str:
    """Return the tokens of a prompt, or of a whole conversation if it ends with an answer; an error as its text."""
    try:
        if messages[-1]["role"] == "assistant":
            text = renderer.text(messages, tools)
        else:
            text = renderer.prompt(messages, tools)
    except TemplateError as error:
        return f"error: {error}"
    ids: list[int] = renderer.tokenizer(text, add_special_tokens=False).input_ids
    return ids


_FIX = "the original's tokenizer and template can't be carried by this format; take another one (--to)"
