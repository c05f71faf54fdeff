"""Published examples of each project, as facts: each key is in one list, and the recipe composes or says what lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.config.compose import compose, find_recipe
from sft.errors import ConfigError
from sft.importing.convert import Imported, convert
from sft.importing.recipe_text import text_of
from sft.importing.rows import Kind

EXAMPLES: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8")
)
ALL = [(project, name) for project, named in EXAMPLES.items() for name in named]


def imported(project: str, name: str, folder: Path) -> Imported:
    file = folder / "theirs.yaml"
    file.write_text(yaml.safe_dump(EXAMPLES[project][name]), encoding="utf-8")
    return convert(file)


def keys(value: Any, key: str = "") -> Iterator[str]:
    """Yield each leaf of a configuration, by a way of its own."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from keys(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from keys(item, f"{key}[{place}]")
    else:
        yield key


def test_there_are_enough_of_each() -> None:
    counts = {project: len(named) for project, named in EXAMPLES.items()}
    assert counts["axolotl"] >= 10
    assert counts["llama-factory"] >= 10
    assert counts["torchtune"] >= 5
    assert counts["trl"] >= 3


@pytest.mark.long
@pytest.mark.parametrize(("project", "name"), ALL)
def test_it_is_recognised_and_each_key_is_in_one_list(project: str, name: str, tmp_path: Path) -> None:
    found = imported(project, name, tmp_path)
    assert found.project.name == project
    listed = [told.key for kind in Kind for told in found.of(kind)]
    assert [key for key, count in Counter(listed).items() if count > 1] == []
    for leaf in keys(EXAMPLES[project][name]):
        holders = [key for key in listed if leaf == key or leaf.startswith((f"{key}.", f"{key}["))]
        assert len(holders) == 1, (leaf, holders)
    assert all(told.found.note for told in found.told if told.found.kind is not Kind.TAKEN)


@pytest.mark.long
@pytest.mark.parametrize(("project", "name"), ALL)
def test_the_recipe_composes_or_says_what_is_left(project: str, name: str, tmp_path: Path) -> None:
    found = imported(project, name, tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text_of(found, name), encoding="utf-8")
    lacks = set()
    try:
        compose(find_recipe(str(recipe)), [])
    except ConfigError as error:
        lacks = {problem.key for problem in error.problems}
    assert lacks == {*found.to_fill_in}


ONE: dict[tuple[str, str], dict[str, Any]] = {
    ("axolotl", "llama-3/qlora.yml"): {
        "model.name_or_path": "NousResearch/Meta-Llama-3-8B",
        "dataset.uri": "hf://aaditya/alpaca_subset_1",
        "dataset.format": "alpaca",
        "training.effective_batch_size": 2 * 4,
        "training.max_seq_len": 4096 + 1,
        "training.on_too_long": "drop",
        "training.num_epochs": 4.0,
        "training.learning_rate": 2e-4,
        "training.schedule.warmup_ratio": 0.1,
        "training.optimizer": "adamw",
        "training.lora.rank": 32,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.05,
        "training.lora.quantize": "nf4_double_quant",
        "training.beta2": 0.999,
    },
    ("axolotl", "llama-3/fft-8b-liger-fsdp.yaml"): {
        "training.use_liger": True,
        "training.fsdp.sharding_strategy": "FULL_SHARD",
        "training.validation_split": 0.02,
    },
    ("axolotl", "mistral/bigstral/bigstral-ds-zero3.yaml"): {"training.fsdp.sharding_strategy": "FULL_SHARD"},
    ("llama-factory", "train_lora/qwen3_lora_sft.yaml"): {
        "model.name_or_path": "Qwen/Qwen3-4B-Instruct-2507",
        "model.trust_remote_code": True,
        "training.effective_batch_size": 8,
        "training.max_seq_len": 2048 + 1,
        "training.on_too_long": "truncate",
        "training.lr_scheduler": "cosine",
        "training.lora.rank": 8,
        "training.lora.alpha": 16,
        "dataset.sources.identity.max_samples": 1000,
        "dataset.sources.identity.uri": "???",
    },
    ("llama-factory", "extras/dft/qwen2_full_sft.yaml"): {"training.loss": "dft"},
    ("llama-factory", "extras/muon/qwen2_full_sft.yaml"): {"training.optimizer": "muon"},
    ("torchtune", "llama3_1/8B_full.yaml"): {
        "model.name_or_path": "/tmp/Meta-Llama-3.1-8B-Instruct/",
        "dataset.uri": "hf://yahma/alpaca-cleaned",
        "training.train_on": "everything",
        "training.learning_rate": 2e-5,
        "training.lr_scheduler": "constant",
        "training.max_grad_norm": 1e30,
        "training.weight_decay": 0.01,
        "training.weight_decay_on": "all",
        "training.precision": "bf16",
    },
    ("torchtune", "llama3_1/8B_lora_single_device.yaml"): {
        "training.lora.rank": 8,
        "training.lora.alpha": 16,
        "training.lora.target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "training.lr_scheduler": "cosine",
        "training.warmup_steps": 100,
        "dataset.uri": "hf://yahma/alpaca-cleaned",
    },
    ("trl", "trl/scripts/sft.py, LoRA"): {
        "dataset.uri": "hf://trl-lib/Capybara",
        "training.effective_batch_size": 16,
        "training.learning_rate": 2e-4,
        "training.lora.rank": 32,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.05,
        "training.lr_scheduler": "linear",
        "training.max_seq_len": 1024 + 1,
    },
}


@pytest.mark.parametrize(("project", "name"), ONE)
def test_settings_of_an_example(project: str, name: str, tmp_path: Path) -> None:
    settings = imported(project, name, tmp_path).settings
    wanted = ONE[project, name]
    assert {key: settings.get(key) for key in wanted} == wanted


def test_a_full_training_gets_no_adapters_though_the_file_has_their_settings(tmp_path: Path) -> None:
    found = imported("axolotl", "llama-3/fft-8b.yaml", tmp_path)
    assert not [key for key in found.settings if key.startswith("training.lora.")]
