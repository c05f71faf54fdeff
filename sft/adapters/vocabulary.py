"""New tokens for a base model: ``python -m sft.adapters.vocabulary``, a child that writes a larger copy of it.

A new token's row in the embedding, and in the head unless that is the embedding, is the mean of the rows of the tokens
that were there, so that at first it is as likely as they are on average (Hewitt, "Initializing New Word Embeddings for
Pretrained Language Models", 2021). A vocabulary that is padded to a multiple stays so: its padding is used first.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters import checkpoint_writer
from sft.adapters.os import child
from sft.errors import StageError

_LARGEST_MULTIPLE = 128


def _extend(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: write the model with more tokens into ``target``; return how many it has, and how many are new.

    Request: ``folder``, ``target``, ``special`` and ``plain`` tokens, ``trust_remote_code``.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, target, trust = Path(request["folder"]), Path(request["target"]), request["trust_remote_code"]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trust)
    num_rows = model.get_input_embeddings().num_embeddings
    old = {number for number in tokenizer.get_vocab().values() if number < num_rows}
    num_added = add(tokenizer, special=request["special"], plain=request["plain"])
    new = set(tokenizer.get_vocab().values()) - old
    if not new:
        raise StageError("model.add_tokens: the tokenizer has all of these, and a row for each", fix="leave them out")
    resize(model, old=sorted(old), new=sorted(new))
    for file in (folder / "generation_config.json", *folder.glob("*.py")):
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    checkpoint_writer.save_weights(model, model.state_dict(), target, base=folder, save_dtype="auto")
    tokenizer.save_pretrained(target)
    num_rows = model.get_input_embeddings().num_embeddings
    return {"num_added": num_added, "num_tokens": len(old | new), "num_rows": num_rows}


def add(tokenizer: Any, *, special: list[str], plain: list[str]) -> int:
    """Give a tokenizer new tokens and return how many it did not have.

    Args:
        tokenizer: transformers'.
        special: Never split, and left out where special tokens are skipped.
        plain: Never split, but text like any other.

    Raises:
        StageError: The tokenizer has one of them with the other meaning.
    """
    known = tokenizer.get_vocab()
    specials = set(tokenizer.all_special_tokens)
    specials |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    wrong = [token for token in special if token in known and token not in specials]
    wrong += [token for token in plain if token in specials]
    if wrong:
        rule = f"model.add_tokens: the tokenizer has {', '.join(wrong)} already, with the other meaning"
        raise StageError(rule, fix="leave it out, or name another token")
    num_added: int = tokenizer.add_special_tokens(
        {"extra_special_tokens": [token for token in special if token not in known]}, replace_extra_special_tokens=False
    )
    return num_added + int(tokenizer.add_tokens([token for token in plain if token not in known]))


def resize(model: Any, *, old: list[int], new: list[int]) -> None:
    """Give new tokens a row each: the mean of the old ones'.

    Args:
        model: A causal language model; its embedding and head are changed.
        old: Ids of tokens that have a row.
        new: Ids of those that need one.
    """
    import torch

    num_rows = model.get_input_embeddings().num_embeddings
    if new[-1] >= num_rows:
        multiple = math.gcd(num_rows, _LARGEST_MULTIPLE)
        model.resize_token_embeddings(new[-1] + 1, pad_to_multiple_of=multiple, mean_resizing=False)
    head = model.get_output_embeddings()
    tables = {id(table): table for table in (model.get_input_embeddings().weight, head.weight)}  # one where tied
    with torch.no_grad():
        for table in [*tables.values(), *([] if head.bias is None else [head.bias])]:
            mean = table[old].float().mean(dim=0).to(table.dtype)
            table[[*new, *range(max(num_rows, new[-1] + 1), len(table))]] = mean


if __name__ == "__main__":
    child.main(_extend)
