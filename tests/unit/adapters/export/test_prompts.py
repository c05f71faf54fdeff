"""Prompt tokens of an export against those of its original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.export.prompts import DECOMPOSED, compare_prompts, edge_cases
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.chat.template import Renderer
from sft.errors import StageError

pytestmark = pytest.mark.slow


def renderer(folder: Path, template: str | None = None) -> Renderer:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    return Renderer(tokenizer, frozenset({tokenizer.eos_token}))


@pytest.fixture
def held_out(tiny_data: DatasetArtifact) -> list[dict[str, str]]:
    return [{"name": "holdout", "file": str(tiny_data.eval_file)}]


def test_the_same_tokenizer_has_the_same_prompts(tiny_model: ModelArtifact, held_out: list[dict[str, str]]) -> None:
    same = renderer(tiny_model.model_dir), renderer(tiny_model.model_dir)
    assert compare_prompts(*same, held_out) == {"held_out": {"holdout": 20}, "edge_cases": 12, "notes": []}


def test_another_template_is_refused_with_the_first_token_that_differs(
    tiny_model: ModelArtifact, held_out: list[dict[str, str]]
) -> None:
    original = renderer(tiny_model.model_dir)
    other = renderer(tiny_model.model_dir, original.tokenizer.chat_template.replace("<|im_end|>", "<|endoftext|>"))
    with pytest.raises(StageError, match=r"held-out sample 1 of holdout has other prompt tokens.*im_end.*endoftext"):
        compare_prompts(original, other, held_out)


def test_a_difference_that_no_row_shows_is_found_at_the_edge(
    tiny_model: ModelArtifact, held_out: list[dict[str, str]]
) -> None:
    original = renderer(tiny_model.model_dir)
    template = original.tokenizer.chat_template.replace("message['content']", "message['content'] | trim")
    with pytest.raises(StageError, match="a prompt with spaces around has other tokens"):
        compare_prompts(original, renderer(tiny_model.model_dir, template), held_out)


def test_composed_letters_are_said_where_the_original_normalises(tiny_model: ModelArtifact) -> None:
    from tokenizers import normalizers

    original, other = renderer(tiny_model.model_dir), renderer(tiny_model.model_dir)
    original.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([])
    found = compare_prompts(original, other, [])
    assert [DECOMPOSED in note for note in found["notes"]] == [True]


def test_edge_cases_hold_the_tokens_own_texts() -> None:
    cases = edge_cases(["<|im_end|>"])
    assert "<|im_end|>" in json.dumps(cases["a token's text"])
    assert cases["nothing"] == [{"role": "user", "content": ""}]
