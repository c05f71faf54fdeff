"""Which model, batch and rate a new recipe begins with."""

from __future__ import annotations

import dataclasses

import pytest

from sft.adapters.os import machine
from sft.planning import recipe_choice
from sft.planning.model_shape import shape_of
from sft.planning.recipe_choice import MODELS, Fit, batch_and_epochs, fits, learning_rate, num_steps, suggested
from tests.support.configs import composed

NUM_PARAMETERS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 361_821_120,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
}
"""As the hub counts them in each model's safetensors."""


@pytest.mark.parametrize("name", MODELS)
def test_the_sizes_in_the_table_make_as_many_parameters_as_the_model_has(name: str) -> None:
    shape = shape_of(MODELS[name])
    assert shape is not None
    assert shape.num_parameters == NUM_PARAMETERS[name]


def found(gib: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Fit]:
    """How the models fit a machine without a GPU and with so much memory."""
    monkeypatch.setattr(machine, "host_bytes", lambda: int(gib * 2**30))
    settings = ["dataset.uri=x.jsonl", "model.name_or_path=a/b", "training.launcher.procs_per_worker=1"]
    return dict(fits(composed(*settings), composed(*settings, "training/lora=default")))


def test_what_does_not_fit_the_memory_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = found(5.8, monkeypatch), found(30, monkeypatch)
    assert [*few] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert few["HuggingFaceTB/SmolLM2-135M-Instruct"].wants_lora
    assert "Qwen/Qwen2.5-1.5B-Instruct" in many
    assert "Qwen/Qwen2.5-7B-Instruct" not in many
    assert found(0.5, monkeypatch) == {}


def test_on_a_cpu_a_quick_model_is_suggested_though_larger_ones_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert suggested(found(64, monkeypatch)) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert suggested({}) is None


def test_on_a_gpu_the_largest_is_suggested_that_is_trained_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = {name: dataclasses.replace(how, on_gpu=True) for name, how in found(70, monkeypatch).items()}
    assert on_gpu["Qwen/Qwen2.5-7B-Instruct"].wants_lora
    assert suggested(on_gpu) == "Qwen/Qwen2.5-1.5B-Instruct"
    assert suggested({name: how for name, how in on_gpu.items() if how.wants_lora}) == max(
        (name for name, how in on_gpu.items() if how.wants_lora), key=lambda name: on_gpu[name].shape.num_parameters
    )


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_samples", [1, 7, 20, 200, 3_000, 50_000])
def test_no_training_has_so_few_steps_that_the_plan_would_say_so(num_samples: int, num_ranks: int) -> None:
    batch, epochs = batch_and_epochs(num_samples, num_ranks)
    assert batch % num_ranks == 0
    assert num_steps(num_samples, batch, epochs) >= 10 or epochs == recipe_choice._MOST_EPOCHS
    if num_samples >= 200:
        assert num_steps(num_samples, batch, epochs) >= 20


def test_adapters_learn_faster_and_large_models_more_slowly() -> None:
    small, large = (shape_of(MODELS[name]) for name in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"))
    assert learning_rate(small, lora=True) > learning_rate(small, lora=False) > learning_rate(large, lora=False)
