"""A model is loaded in the type that its weights have, and what is scored otherwise than it is saved is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation.as_saved import differences, generation_settings, weights_dtype


def model(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None, **dtypes: str) -> Path:
    import torch
    from safetensors.torch import save_file

    weights = {name: torch.zeros(4, dtype=getattr(torch, dtype)) for name, dtype in dtypes.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def told(folder: Path, *, is_greedy: bool = True, writes_tasks: bool = False, **model_args: Any) -> list[str]:
    return list(differences(folder, model_args, is_greedy=is_greedy, writes_tasks=writes_tasks))


@pytest.mark.slow
def test_weights_are_used_in_the_type_that_they_have_whatever_the_config_says(tmp_path: Path) -> None:
    folder = model(tmp_path, {"dtype": "bfloat16"}, a="float32", b="float32")
    assert weights_dtype(folder) == "float32"
    assert told(folder) == [
        "config.json says bfloat16, in which others load it; it is scored in float32, as its weights are saved"
    ]


def test_a_model_that_is_used_as_it_is_saved_has_nothing_to_say(tmp_path: Path) -> None:
    assert told(model(tmp_path, {"dtype": "bfloat16"}, {"eos_token_id": 3}, a="bfloat16"), writes_tasks=True) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16"])
def test_a_type_that_the_recipe_chooses_is_said(dtype: str, tmp_path: Path) -> None:
    folder = model(tmp_path, {"dtype": "float32"}, a="float32")
    assert told(folder, dtype=dtype) == ["eval.model_args.dtype=bfloat16: the weights are saved in float32"]
    assert told(folder, dtype="float32") == told(folder, dtype="auto") == []


def test_weights_of_another_type_than_most_are_said(tmp_path: Path) -> None:
    folder = model(tmp_path, {}, a="bfloat16", b="bfloat16", norm="float32")
    assert told(folder) == ["of 3 weights 1 in float32 are computed with in bfloat16, as most are saved"]


def test_a_quantised_models_weights_are_its_methods_to_load(tmp_path: Path) -> None:
    folder = model(tmp_path, {"quantization_config": {"quant_method": "fp8"}}, a="float16")
    assert weights_dtype(folder) == "auto"
    assert told(folder) == []


def test_settings_of_generation_that_greedy_answers_leave_aside_are_said(tmp_path: Path) -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1, "eos_token_id": [1, 2]}
    folder = model(tmp_path, {}, sampled, a="float32")
    shown = "do_sample=True, temperature=0.7, repetition_penalty=1.1"
    greedy = f"held-out answers are greedy (eval.holdout.sampling), without generation_config.json's {shown}"
    assert told(folder) == [greedy]
    assert told(folder, is_greedy=False) == []
    [of_tasks] = told(folder, is_greedy=False, writes_tasks=True)
    assert of_tasks.endswith(f"generation_config.json: {shown}")


def test_what_changes_no_text_is_not_said(tmp_path: Path) -> None:
    neutral = {"temperature": 0.7, "repetition_penalty": 1.0, "max_length": 20, "transformers_version": "5", "top_p": 1}
    assert generation_settings(model(tmp_path, {}, neutral, a="float32")) == {}
