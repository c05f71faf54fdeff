"""Samples that share a row or a minibatch never see each other, in any architecture: logits are those of each alone.

A minibatch is collated and prepared as a rank does it. Attention is transformers' own up to the kernels,
which a GPU has and `tests.support.flash` computes on the CPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import loss, varlen
from sft.adapters.instructlab.rank.minibatches import collate_row
from sft.config.schema import Attention
from sft.errors import StageError
from sft.planning.row_packing import CAPPED, PACKED, why_padded
from tests.support import architectures, flash
from tests.support.architectures import HYBRID, tiny

pytestmark = [
    pytest.mark.slow,
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
LENGTHS = (11, 7, 7, 5, 1)
TOKENS = sum(LENGTHS)
PADDED = sorted({*HYBRID, "gpt_oss", "llama4_text"})


def rows() -> list[Any]:
    import torch

    random = torch.Generator().manual_seed(1)
    return [torch.randint(3, architectures.VOCABULARY, (length,), generator=random) for length in LENGTHS]


def samples() -> list[dict[str, Any]]:
    return [
        {"input_ids": row.tolist(), "labels": row.tolist(), "len": len(row), "num_loss_counted_tokens": len(row)}
        for row in rows()
    ]


def prepared(minibatch: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the model, as a rank gives them."""
    arguments = loss.inputs(minibatch, SimpleNamespace(config=None), "cpu")
    return {name: value for name, value in arguments.items() if name not in {"places", "targets"}}


def model_of(architecture: str, attention: str | None = None) -> Any:
    if architecture not in architectures.installed():
        pytest.skip("this transformers has no such architecture")
    model = tiny(architecture).eval()
    for part in model.modules():
        if attention and hasattr(part, "config"):
            part.config._attn_implementation = attention
    return model


def alone(model: Any) -> Any:
    import torch

    return torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows()])


def packed(model: Any) -> Any:
    """The logits of the samples in one row, which is filled up to 32 tokens."""
    return model(**prepared(collate_row(samples(), sum(LENGTHS), token_budget=100)), use_cache=False).logits[0, :TOKENS]


@pytest.mark.parametrize("architecture", sorted(PACKED))
def test_flash_attention_keeps_samples_of_a_row_apart(architecture: str) -> None:
    import torch

    with torch.no_grad(), flash.on_a_cpu() as kernels:
        model = model_of(architecture, "flash_attention_2")
        reference = alone(model)
        assert "varlen" not in kernels
        kernels.clear()
        found = packed(model)
    assert set(kernels) == {"varlen"}
    assert (found - reference).abs().max() < 3e-6 * reference.abs().max()


@pytest.mark.parametrize("kernel", ["sample_by_sample", "on_kernel"])
@pytest.mark.parametrize("architecture", sorted(PACKED - CAPPED))
def test_varlen_attention_keeps_samples_of_a_row_apart(
    architecture: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(varlen.STATE, "has_kernel", kernel == "on_kernel")
    with torch.no_grad(), flash.varlen_on_a_cpu() as called:
        model = model_of(architecture)
        reference = alone(model)
        varlen.select(model)
        found = packed(model)
    assert bool(called) is (kernel == "on_kernel")
    assert (found - reference).abs().max() < 3e-6 * reference.abs().max()


@pytest.mark.parametrize("architecture", sorted({*CAPPED, "gpt_oss"}))
def test_what_varlen_attention_can_not_do_is_refused(architecture: str) -> None:
    assert why_padded({"model_type": architecture}, Attention.varlen)
    model = model_of(architecture)
    varlen.select(model)
    with pytest.raises(StageError, match=r"attention over packed rows has no (softcap|s_aux)"):
        packed(model)


def test_a_models_attention_dropout_is_not_left_out() -> None:
    config = {"model_type": "granite", "attention_dropout": 0.1}
    assert "attention_dropout is 0.1" in (why_padded(config, Attention.varlen) or "")
    assert why_padded(config, Attention.flash_attention) is None
    model = model_of("granite")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    varlen.select(model)
    with pytest.raises(StageError, match="has no dropout"):
        packed(model.train())


@pytest.mark.parametrize("architecture", PADDED)
def test_samples_are_padded_where_a_row_would_mix_them_and_padding_changes_none(architecture: str) -> None:
    import torch
    from instructlab.training.sampler import padded_mb_collate_fn

    assert all(why_padded({"model_type": architecture}, attention) for attention in Attention)
    model = model_of(architecture)
    with torch.no_grad():
        logits = model(**prepared(padded_mb_collate_fn(samples(), sum(LENGTHS))), use_cache=False).logits
        reference = alone(model)
    found = torch.cat([row[:length] for row, length in zip(logits, LENGTHS, strict=True)])
    # A delta rule makes more of a rounding than attention does: 6e-6 with two threads on some processors.
    assert (found - reference).abs().max() < 2e-5 * reference.abs().max()


@pytest.mark.parametrize("architecture", sorted(HYBRID))
def test_positions_alone_do_not_keep_samples_apart_in_layers_with_a_state(architecture: str) -> None:
    import torch

    model = model_of(architecture)
    row, positions = torch.cat(rows())[None], torch.cat([torch.arange(length) for length in LENGTHS])[None]
    with torch.no_grad():
        found = model(input_ids=row, position_ids=positions, use_cache=False).logits[0]
        assert (found - alone(model)).abs().max() > 0.1, f"{architecture} keeps them apart: it may be packed"


def test_a_models_own_code_is_not_trusted_to_keep_samples_apart() -> None:
    for attention in (Attention.varlen, Attention.flash_attention):
        assert why_padded({"model_type": "llama"}, attention) is None
        assert why_padded({"model_type": "llama", "auto_map": {"AutoModel": "own.Model"}}, attention)


def test_the_library_still_packs_whatever_the_model_is() -> None:
    import inspect

    from instructlab.training import main_ds

    assert "flash_enabled=flash_enabled," in inspect.getsource(main_ds.main), "see rank/fixes.py: packs_rows"
