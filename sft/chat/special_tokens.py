"""Special tokens: which texts the tokenizer turns into them, at which the model stops, and where a row holds one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.errors import StageError
from sft.files import read_document

_LARGEST_ID = (1 << 31) - 1


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

    Raises:
        StageError: That file is not what transformers could read.
    """
    ids = {tokenizer.eos_token_id, *_eos_ids(model_dir / "generation_config.json")} - {None}
    return frozenset(text for text in tokenizer.convert_ids_to_tokens(sorted(ids)) if text is not None)


def _eos_ids(file: Path) -> list[int]:
    if not file.exists():
        return []
    try:
        content = json.loads(read_document(file))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise StageError(f"{file}: must be a JSON object")
    value = content.get("eos_token_id")
    ids: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= _LARGEST_ID for one in ids):
        raise StageError(f"{file}: eos_token_id must be the number of a token, or a list of such numbers")
    return ids


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
