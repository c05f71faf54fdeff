"""The name that was meant where one is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CLOSE = 0.7
"""How alike two words are, of 1, if one may be meant by the other (difflib)."""
_MOST_NAMED = 4
_OTHER_NAMES = {
    "lr": "training.learning_rate",
    "epochs": "training.num_epochs",
    "num_train_epochs": "training.num_epochs",
    "training.batch_size": "training.effective_batch_size",
    "per_device_train_batch_size": "training.effective_batch_size",
    "gradient_accumulation_steps": "training.effective_batch_size",
    "max_length": "training.max_seq_len",
    "max_seq_length": "training.max_seq_len",
    "cutoff_len": "training.max_seq_len",
    "model.name": "model.name_or_path",
    "model.path": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "registry.name": "registry.model_name",
    "dataset.path": "dataset.uri",
    "r": "training.lora.rank",
    "lora_r": "training.lora.rank",
    "lora_alpha": "training.lora.alpha",
    "lora_dropout": "training.lora.dropout",
    "load_in_4bit": "training.lora.quantize",
    "quantization_bit": "training.lora.quantize",
}
"""What other tools and habits call a setting."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean …?`` for the closest known word; None if none is close, or which one is in doubt."""
    meant = nearest_word(word, known)
    return f"did you mean {meant}?" if meant else None


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """Return the closest known word; None if none is close, or which one is in doubt."""
    folded = {name.casefold(): name for name in known}
    begun = [name for low, name in folded.items() if low.startswith(word.casefold())]
    if len(begun) == 1:
        return begun[0]
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=_CLOSE)
    return folded[close[0]] if close else None


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean …?`` for a setting of another name; None if none is close.

    In a group that there is, another group's setting of that name is another thing, and is not proposed.
    """
    names = list(known)
    group, _, last = key.rpartition(".")
    for name in (key, last):
        if (meant := _OTHER_NAMES.get(name)) in names:
            return f"did you mean {meant}?"
    if group in names:
        names = [name for name in names if name.startswith(f"{group}.")]
    same = [name for name in names if name.rpartition(".")[2] == last]
    if group and same:
        same = difflib.get_close_matches(key, same, n=1, cutoff=0.0)
    if same:
        return f"did you mean {' or '.join(same[:_MOST_NAMED])}?"
    lasts = {name.rpartition(".")[2]: name for name in names} if group in {n.rpartition(".")[0] for n in names} else {}
    if close := difflib.get_close_matches(last.casefold(), lasts, n=1, cutoff=0.6):
        return f"did you mean {lasts[close[0]]}?"
    return None if lasts else nearest(key, names)
