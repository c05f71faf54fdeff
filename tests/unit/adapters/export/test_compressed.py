"""8-bit weights in compressed-tensors' format, against that library."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from sft.adapters.checkpoint_files import read_tensors
from sft.adapters.export import compressed
from sft.adapters.export.compressed_writer import check_layers, quantise
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.errors import ConfigError, StageError

pytestmark = pytest.mark.slow
KINDS = ("fp8", "int8")


@pytest.mark.parametrize(("kind", "largest", "steps"), [("fp8", 448.0, 8), ("int8", 127.5, 127)])
def test_the_largest_value_of_a_row_takes_the_whole_range(kind: str, largest: float, steps: int) -> None:
    import torch

    rows = torch.tensor([[0.5, -2.0, 0.25], [0.0, 0.0, 0.0], [1e-3, 3e-3, -1e-3]])
    numbers, scale = quantise(rows, kind)
    assert scale[0].item() == pytest.approx(2.0 / largest)
    assert numbers.element_size() == 1
    gaps = (numbers.float() * scale - rows).abs()
    assert bool((gaps <= rows.abs().amax(dim=1, keepdim=True) / steps).all())
    assert numbers[1].float().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_scales_are_the_librarys(kind: str) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    torch.manual_seed(0)
    values = torch.randn(16, 64, dtype=torch.bfloat16)
    number = "float" if kind == "fp8" else "int"
    settings = QuantizationArgs(num_bits=8, type=number, symmetric=True, strategy="channel")
    scale, zero = calculate_qparams(values.amin(1, keepdim=True), values.amax(1, keepdim=True), settings)
    own, own_scale = quantise(values, kind)
    assert torch.equal(own_scale, scale)
    assert torch.equal(own, quantize(values, scale, zero, settings, dtype=own.dtype))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_was_written(
    kind: str, tiny_model: ModelArtifact, tiny_data: DatasetArtifact, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    out.mkdir()
    held_out = [{"name": "holdout", "file": str(tiny_data.eval_file)}]
    made = compressed.export(
        tiny_model.model_dir,
        out,
        tmp_path / "work",
        kind=kind,
        trust_remote_code=False,
        leave_out=["manifest.json"],
        held_out=held_out,
    )
    assert made["num_layers"] == 14  # 2 blocks of 7
    assert made["prompts"]["held_out"] == {"holdout": 20}
    dtypes = {name: tensor.dtype for name, tensor in read_tensors(out).items()}
    assert dtypes["model.layers.0.mlp.up_proj.weight"] == {"fp8": "F8_E4M3", "int8": "I8"}[kind]
    assert dtypes["model.embed_tokens.weight"] == "F32"
    original = AutoModelForCausalLM.from_pretrained(tiny_model.model_dir).eval()
    read = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.arange(3, 23)[None]
    with torch.inference_mode():
        before, after = (model(input_ids=ids).logits.float().log_softmax(-1) for model in (original, read))
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    assert 0 < kl < 0.05


def test_a_missing_library_and_an_idle_type_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--type=f16: does nothing: --to fp8 says the type"):
        compressed.check("fp8", "f16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StageError, match="--to int8 needs the package compressed-tensors") as error:
        compressed.check("int8", "auto")
    assert error.value.fix == "pip install 'sft-runner[export-compressed]'"


def test_a_model_that_is_quantised_already_is_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = json.loads((tiny_model.model_dir / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(StageError, match="the model is quantised already"):
        compressed.export(
            model, tmp_path, tmp_path / "work", kind="fp8", trust_remote_code=False, leave_out=[], held_out=[]
        )


@pytest.mark.long
def test_a_model_of_which_no_layer_would_be_rounded_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = tmp_path / "model"
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=64)).save_pretrained(model)
    (tmp_path / "out").mkdir()
    with pytest.raises(StageError, match="no linear layers but its head, so that nothing would be smaller"):
        compressed.export(
            model, tmp_path / "out", tmp_path / "work", kind="int8", trust_remote_code=False, leave_out=[], held_out=[]
        )


def test_a_checkpoint_that_calls_its_layers_otherwise_is_refused() -> None:
    check_layers({"a.weight"}, {"a.weight", "a.weight_scale", "b.weight"})
    with pytest.raises(StageError, match=r"the checkpoint has no b\.weight: it calls layers otherwise"):
        check_layers({"a.weight", "b.weight"}, {"a.weight", "a.weight_scale", "c.weight"})
