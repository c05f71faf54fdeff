"""Special tokens: which texts the tokenizer turns into them, at which the model stops, and where a row holds one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def special_tokens(tokenizer: Any, stops: frozenset[str] = frozenset()) -> re.Pattern[str]:
    """Return a pattern of what the tokenizer takes for a special token wherever it stands, in a user's text too.

    Args:
        tokenizer: transformers' fast tokenizer.
        stops: Texts of the tokens at which the model stops, which may not be marked as special.
    """
    texts = stops | {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def stops(tokenizer: Any, model_dir: Path) -> frozenset[str]:
    """Return the texts of the tokens at which a model stops when it generates.

    These are ``eos_token`` and the ``eos_token_id`` (one or a list) of ``generation_config.json``. That of
    ``config.json`` doesn't count, because the library overwrites it (model.py:479@0.16.2).
    """
    file = model_dir / "generation_config.json"
    value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    ids = {tokenizer.eos_token_id, *(value if isinstance(value, list) else [value])} - {None}
    return frozenset(tokenizer.convert_ids_to_tokens(sorted(ids)))


def find_special_token(sample: Mapping[str, Any], pattern: re.Pattern[str]) -> str | None:
    """Return where a sample holds the text of a special token, or None.

    Every text that may enter the rendering is searched: contents, reasoning, names, calls of tools with their
    arguments, and the descriptions of the tools.

    Args:
        sample: With ``messages`` and perhaps ``tools``.
        pattern: `special_tokens`'.
    """
    for number, message in enumerate(sample["messages"], start=1):
        for field, value in message.items():
            for text in _texts(value) if field != "role" else ():
                if match := pattern.search(text):
                    where = "" if field == "content" else f" in {field}"
                    return f"turn {number} holds {match[0]}{where}, in the text {_excerpt(text, match.start())}"
    for text in _texts(sample.get("tools")):
        if match := pattern.search(text):
            return f"tools holds {match[0]}, in the text {_excerpt(text, match.start())}"
    return None


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in JSON, keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _excerpt(text: str, place: int) -> str:
    begin = max(0, place - 20)
    return json.dumps(text[begin : begin + 50], ensure_ascii=False)
