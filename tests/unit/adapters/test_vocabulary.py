"""New tokens: their rows are the mean of the old ones', in embedding and head; padding is used first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.adapters.vocabulary import add, resize
from sft.artifacts import ModelArtifact
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def made(*, rows: int, tied: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, tie_word_embeddings=tied, **sizes))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("rows", "tokens", "added", "expected"),
    [
        (64, 60, 3, 64),  # into the padding
        (64, 60, 10, 128),  # beyond it: the next multiple of what divides 64 and 128
        (60, 60, 1, 64),  # of 4
        (61, 61, 2, 63),  # of 1
    ],
)
def test_new_rows_are_the_mean_of_those_of_the_old_tokens(
    tied: bool, rows: int, tokens: int, added: int, expected: int
) -> None:
    import torch

    model = made(rows=rows, tied=tied)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    resize(model, old=list(range(tokens)), new=list(range(tokens, tokens + added)))
    after = [layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert (after[0] is after[1]) == tied
    assert model.config.vocab_size == expected
    for old, new in zip(before, after, strict=True):
        assert len(new) == expected
        assert torch.equal(new[:tokens], old[:tokens])
        mean = old[:tokens].mean(dim=0)
        assert torch.allclose(new[tokens : tokens + added], mean.expand(added, -1), atol=1e-7)
        if expected > rows:
            assert torch.allclose(new[tokens + added :], mean.expand(expected - tokens - added, -1), atol=1e-7)
        else:
            assert torch.equal(new[tokens + added :], old[tokens + added :])  # padding stays as it was


def test_special_tokens_are_skipped_and_plain_ones_are_text_and_neither_is_split(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    size = len(tokenizer)
    assert add(tokenizer, special=["<|call|>", "<|im_end|>"], plain=["milliard"]) == 2
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded("<|call|>milliard", add_special_tokens=False)["input_ids"]
    assert ids == [size, size + 1]
    assert loaded.decode(ids, skip_special_tokens=True) == "milliard"
    assert loaded.eos_token == "<|im_end|>"


@pytest.mark.parametrize(("special", "plain"), [(["a"], []), ([], ["<|im_end|>"])])
def test_a_token_that_is_there_with_the_other_meaning_is_refused(
    special: list[str], plain: list[str], tiny_model: ModelArtifact
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    known = (
        "Ġone" if "Ġone" in tokenizer.get_vocab() else next(token for token in tokenizer.get_vocab() if len(token) > 2)
    )
    special = [known for _ in special]
    with pytest.raises(StageError, match="already, with the other meaning"):
        add(tokenizer, special=special, plain=plain)
