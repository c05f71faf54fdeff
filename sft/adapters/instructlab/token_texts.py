"""The texts of tokenized samples, as a person reads them. A child process:
``python -m sft.adapters.instructlab.token_texts``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.os import child
from sft.chat.loss import NO_LOSS


def _read(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``model_dir``, ``data_file``, ``num_samples``, ``trust_remote_code``.

    Returns under ``samples`` for each of the first samples the ``pieces`` of its text; see `pieces_of`.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request["model_dir"], trust_remote_code=request["trust_remote_code"])
    with Path(request["data_file"]).open("rb") as lines:
        rows = [msgspec.json.decode(line) for line in itertools.islice(lines, request["num_samples"])]
    return {"samples": [{"pieces": pieces_of(row["input_ids"], row["labels"], tokenizer)} for row in rows]}


def pieces_of(ids: Sequence[int], labels: Sequence[int], tokenizer: Any) -> list[dict[str, Any]]:
    """Return a sample's text in pieces: runs of tokens that count for the loss or don't, each special token alone.

    A token may be a part of a character, or a text that depends on its neighbours, so what a piece says is the
    difference of two decoded beginnings of the sample; all pieces together are the decoded sample.

    Args:
        ids: Token ids.
        labels: `NO_LOSS` where a token doesn't count.
        tokenizer: transformers' tokenizer.

    Returns:
        Pieces with ``text``, ``token_ids``, ``is_loss`` and ``is_special``.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    whole = _decode(tokenizer, ids)
    pieces, begin, at = [], 0, 0
    kinds = [
        (label != NO_LOSS, place if id_ in special else -1)
        for place, (id_, label) in enumerate(zip(ids, labels, strict=True))
    ]
    for (is_loss, special_at), group in itertools.groupby(kinds):
        end = at + len(list(group))
        text = _decode(tokenizer, ids[:end]) if end < len(ids) else whole
        upto = _num_shared(text, whole)  # less where a character goes on after the piece
        piece = {"text": whole[begin:upto], "token_ids": list(ids[at:end])}
        pieces.append({**piece, "is_loss": is_loss, "is_special": special_at >= 0})
        begin, at = max(begin, upto), end
    return pieces


def _num_shared(first: str, second: str) -> int:
    """Return with how many equal characters two texts begin."""
    unequal = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(unequal, min(len(first), len(second)))


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


if __name__ == "__main__":
    child.main(_read)
