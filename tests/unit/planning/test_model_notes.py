"""Samples beyond a model's context are counted or refused; routers that ask for a loss are told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.errors import StageError
from sft.planning.model_notes import check_context, context_of, notes

SHORT = {"model_type": "llama", "max_position_embeddings": 8}


def tokenized(folder: Path, *lengths: int) -> TokenizedArtifact:
    rows = ({"input_ids": [1] * length, "labels": [1] * length, "len": length} for length in lengths)
    (folder / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return TokenizedArtifact(
        root=folder,
        num_rows=len(lengths),
        num_samples=len(lengths),
        num_tokens=sum(lengths),
        num_loss_tokens=sum(lengths),
        longest_tokens=max(lengths),
    )


def test_samples_beyond_the_context_are_counted(tmp_path: Path) -> None:
    [note] = notes(TrainingConfig(), SHORT, tokenized(tmp_path, 3, 8, 9, 12))
    assert note.startswith("2 of 4 samples are longer than the model's context, max_position_embeddings=8, up to 12")
    assert "training.max_seq_len=8" in note
    assert [*notes(TrainingConfig(), SHORT, tokenized(tmp_path, 3, 8))] == []


@pytest.mark.parametrize(("max_seq_len", "says"), [(9, False), (10, True)])
def test_before_samples_are_known_the_setting_is_compared(max_seq_len: int, says: bool) -> None:
    found = [*notes(TrainingConfig(max_seq_len=max_seq_len), SHORT, None)]
    assert bool(found) is says
    assert all("is above the model's context, max_position_embeddings=8" in note for note in found)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 32768, "rope_scaling": {"factor": 4.0}}, 32768),
        ({"text_config": {"max_position_embeddings": 16}}, 16),
        ({"n_positions": 4}, 4),
        ({"max_position_embeddings": None}, None),
        ({}, None),
    ],
)
def test_a_context_is_what_the_config_says(config: dict[str, Any], expected: int | None) -> None:
    assert context_of(config) == expected


def test_a_model_with_a_table_of_positions_refuses_samples_beyond_it(tmp_path: Path) -> None:
    opt = {"model_type": "opt", "max_position_embeddings": 8}
    check_context(opt, tokenized(tmp_path, 8))
    check_context(SHORT, tokenized(tmp_path, 9))
    with pytest.raises(StageError, match="1 samples of up to 9 tokens: this opt has a table of 8 positions") as caught:
        check_context(opt, tokenized(tmp_path, 8, 9))
    assert "training.max_seq_len=8" in str(caught.value.fix)


@pytest.mark.parametrize("kind", ["opt", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "biogpt"])
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_those_models_compute_as_many_positions_and_no_more(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 8}
    own = {
        "opt": {"ffn_dim": 16, "word_embed_proj_dim": 16},
        "gpt_neo": {"attention_types": [[["global"], 1]], "num_layers": 1, "num_heads": 2},
        "gptj": {"rotary_dim": 4},
        "codegen": {"rotary_dim": 4, "num_attention_heads": 4},
        "biogpt": {"intermediate_size": 16},
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=32, **sizes | own.get(kind, {})))
    assert context_of(model.config.to_dict()) == 8
    with torch.no_grad():
        model(input_ids=torch.ones((1, 8), dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.ones((1, 9), dtype=torch.long))


@pytest.mark.parametrize(("kind", "told"), [("qwen3_moe", True), ("gpt_oss", False)])
def test_a_router_whose_loss_is_not_trained_is_told_of(kind: str, told: bool) -> None:
    found = [*notes(TrainingConfig(), {"model_type": kind, "output_router_logits": True}, None)]
    assert bool(found) is told
    assert [*notes(TrainingConfig(), {"model_type": kind, "output_router_logits": False}, None)] == []
