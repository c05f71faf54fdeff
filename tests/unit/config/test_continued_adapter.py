"""An adapter that is continued brings its settings; what contradicts them, or has no word here, is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sft.config.compose import compose, find_recipe
from sft.config.continued_adapter import _settings, take_settings
from sft.config.schema import AdapterUse, BaseQuantization, LoraConfig, LoraInit, ModelConfig
from sft.errors import ConfigError

PEFT: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "org/base",
    "bias": "none",
    "r": 6,
    "lora_alpha": 12,
    "lora_dropout": 0.05,
    "target_modules": ["v_proj", "q_proj"],
    "target_parameters": ["experts.gate_up_proj"],
    "layers_to_transform": 1,
    "modules_to_save": ["norm"],
    "rank_pattern": {"v_proj": 3},
    "alpha_pattern": {},
    "use_rslora": True,
    "use_dora": False,
    "init_lora_weights": True,
}


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PEFT, **changes}))
    return folder


def continued(folder: Path) -> ModelConfig:
    return ModelConfig(adapter=str(folder), adapter_use=AdapterUse.continued)


def told(folder: Path, **lora: Any) -> list[str]:
    return [str(problem) for problem in take_settings(continued(folder), LoraConfig(**lora))]


def test_every_setting_of_adapters_is_the_adapters_or_said_to_be_free(tmp_path: Path) -> None:
    lora = LoraConfig(quantize=BaseQuantization.nf4)
    assert not [*take_settings(continued(written(tmp_path)), lora)]
    assert lora.quantize is BaseQuantization.nf4
    assert {field.name for field in fields(LoraConfig)} == {*_settings(PEFT), "quantize"}


def test_what_is_at_its_default_is_the_adapters(tmp_path: Path) -> None:
    lora = LoraConfig()
    assert not [*take_settings(continued(written(tmp_path / "run" / "adapter").parent), lora)]  # a run's folder will do
    assert lora == LoraConfig(
        rank=6,
        alpha=12,
        dropout=0.05,
        target_modules=["experts.gate_up_proj", "q_proj", "v_proj"],
        layers=[1],
        modules_to_save=["norm"],
        rank_pattern={"v_proj": 3},
        use_rslora=True,
    )


def test_what_says_the_same_and_another_dropout_stay(tmp_path: Path) -> None:
    names = ["q_proj", "v_proj", "experts.gate_up_proj"]
    lora = LoraConfig(rank=6, target_modules=names, dropout=0.3)
    assert not [*take_settings(continued(written(tmp_path)), lora)]
    assert (lora.rank, lora.target_modules, lora.dropout, lora.alpha) == (6, names, 0.3, 12)
    again = LoraConfig(**{name: getattr(lora, name) for name in lora.__dataclass_fields__})
    assert not [*take_settings(continued(tmp_path), again)]  # as a record of the run has it
    assert again == lora


def test_nothing_is_taken_of_an_adapter_that_is_merged(tmp_path: Path) -> None:
    lora = LoraConfig()
    assert not [*take_settings(ModelConfig(adapter=str(written(tmp_path))), lora)]
    assert lora == LoraConfig()


def test_each_contradiction_is_told_with_both_values(tmp_path: Path) -> None:
    file = written(tmp_path) / "adapter_config.json"
    lines = told(tmp_path, rank=8, target_modules=["q_proj"], use_dora=True, init=LoraInit.pissa)
    rule = "contradicts the adapter that is continued, which has"
    fix = "leave it out: the adapter's own settings hold with model.adapter_use=continued"
    assert lines == [
        f"training.lora.rank=8: {rule} 6 ({file}); {fix}",
        f"training.lora.target_modules=['q_proj']: {rule} ['experts.gate_up_proj', 'q_proj', 'v_proj'] ({file}); {fix}",
        f"training.lora.use_dora=true: {rule} false ({file}); {fix}",
        f"training.lora.init=pissa: {rule} default ({file}); {fix}",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LOHA"}, "is an adapter of the kind LOHA"),
        ({"r": 4.5}, "has r=4.5, for which a whole number is needed"),
        ({"r": True}, "has r=true, for which a whole number is needed"),
        ({"lora_alpha": 1.5}, "has lora_alpha=1.5, for which a whole number is needed"),
        ({"lora_alpha": float("nan")}, "has lora_alpha=nan, for which a whole number is needed"),
        ({"lora_dropout": None}, "has lora_dropout=null, for which a number is needed"),
        ({"target_modules": "all-linear"}, "has target_modules=all-linear, which is no list of names"),
        ({"modules_to_save": [1]}, "has modules_to_save=[1], which is no list of names"),
        ({"layers_to_transform": ["1"]}, "has layers_to_transform=['1'], no list of numbers"),
        ({"rank_pattern": {"^model.*q": 3}}, "has rank_pattern={'^model.*q': 3}; known are ends of names"),
        ({"alpha_pattern": {"q_proj": 0.5}}, "has alpha_pattern={'q_proj': 0.5}; known are ends of names"),
        ({"bias": "all"}, "has bias=all, with which no adapter is trained here"),
        ({"lora_bias": True}, "has lora_bias=true, with which no adapter is trained here"),
        ({"exclude_modules": ["lm_head"]}, "has exclude_modules=['lm_head'], with which no adapter is trained here"),
        ({"layers_pattern": "h"}, "has layers_pattern=h, with which no adapter is trained here"),
        ({"trainable_token_indices": [3]}, "has trainable_token_indices=[3], with which no adapter is trained here"),
        ({"of_next_year": {"x": 1}}, "has of_next_year={'x': 1}, with which no adapter is trained here"),
    ],
)
def test_what_has_no_word_here_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    [line] = told(written(tmp_path, **changes))
    assert line.startswith("model.adapter")
    assert said in line
    assert "adapter_config.json" in line


def test_an_adapter_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    [line] = told(tmp_path / "none")
    assert f"model.adapter={tmp_path / 'none'}: there is no " in line
    (tmp_path / "adapter_config.json").write_text("{")
    [line] = told(tmp_path)
    assert "can't be read" in line


def test_a_recipe_gets_them_and_the_rate_of_adapters_and_is_checked_again(tmp_path: Path) -> None:
    choices = ["model=hub", "model.name_or_path=org/base", f"model.adapter={written(tmp_path)}"]
    recipe = find_recipe("gsm8k")
    cfg = compose(recipe, [*choices, "model.adapter_use=continued", "training.learning_rate=null"])
    assert (cfg.training.lora.rank, cfg.training.lora.use_rslora, cfg.training.learning_rate) == (6, True, 2e-4)
    written(tmp_path, alpha_pattern={"v_proj": 2, "a.v_proj": 3})
    with pytest.raises(ConfigError, match=r"training.lora.alpha_pattern.v_proj=2: a.v_proj is named by v_proj too"):
        compose(recipe, [*choices, "model.adapter_use=continued"])
    with pytest.raises(ConfigError, match=r"model.adapter=.*: is merged into the weights.*adapter_use=continued"):
        compose(recipe, [*choices, "training/lora=default"])
    with pytest.raises(ConfigError, match=r"model.adapter_use=continued: needs the adapter: model.adapter"):
        compose(recipe, ["model.adapter_use=continued"])
