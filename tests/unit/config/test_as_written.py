"""A value of a recipe or of an override is what stands there, whatever YAML or Hydra would make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.as_written import load, override_value
from sft.config.compose import compose, find_recipe
from sft.config.schema import RunConfig
from sft.errors import ConfigError

HEAD = "defaults: [config, {override /model: scratch}, _self_]\n"


def composed(folder: Path, text: str, *overrides: str) -> RunConfig:
    recipe = folder / "mine.yaml"
    recipe.write_text(HEAD + text, encoding="utf-8")
    return compose(find_recipe(str(recipe)), ["dataset.uri=chats.jsonl", *overrides])


@pytest.mark.parametrize("text", ["1.10", "no", "on", "0123456", "12e45678", "1:30", "1_000", "0x1F", "true", ".inf"])
def test_a_text_is_what_stands_there(text: str, tmp_path: Path) -> None:
    cfg = composed(
        tmp_path,
        f"model: {{revision: {text}}}\neval: {{tasks: [{text}]}}\ntraining: {{env: {{NCCL_DEBUG: {text}}}}}\n"
        f"registry: {{model_version: {text}, labels: [a, {text}]}}",
    )
    assert (cfg.model.revision, cfg.registry.model_version, cfg.registry.labels) == (text, text, ["a", text])
    assert (cfg.eval.tasks, cfg.training.env) == ([text], {"NCCL_DEBUG": text})


@pytest.mark.parametrize("text", ["1.10", "no", "0123456", "12e45678", "true", "nan"])
def test_a_text_of_an_override_is_what_is_typed(text: str, tmp_path: Path) -> None:
    typed = [f"model.revision={text}", f"++registry.model_version={text}", f"training.env.NCCL_DEBUG={text}"]
    cfg = composed(tmp_path, "", *typed, f"registry.labels=[a, {text}]", f"eval.holdouts.own.uri={text}")
    assert (cfg.model.revision, cfg.registry.model_version, cfg.registry.labels) == (text, text, ["a", text])
    assert (cfg.training.env, cfg.eval.holdouts["own"].uri) == ({"NCCL_DEBUG": text}, text)


def test_null_and_interpolations_stay_what_they_are(tmp_path: Path) -> None:
    text = "model: {revision: null}\nregistry: {model_version: 1.10, description: 'v${registry.model_version}'}"
    cfg = composed(tmp_path, text, "dataset.system_prompt=null")
    assert (cfg.model.revision, cfg.dataset.system_prompt, cfg.registry.description) == (None, None, "v1.10")


def test_a_number_is_a_decimal_one(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "training: {seed: 010, learning_rate: 1e-4, max_seq_len: 1_000, deterministic: no}")
    training = cfg.training
    assert (training.seed, training.learning_rate, training.max_seq_len) == (10, 1e-4, 1000)
    assert training.deterministic is False
    for text in ("1:30", "0x1F", "0b11", "1e3", "yes"):
        with pytest.raises(ConfigError, match=f"training.warmup_steps={text}: must be a whole number"):
            composed(tmp_path, f"training: {{warmup_steps: {text}}}")


def test_what_goes_on_to_a_library_is_what_yaml_says(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "eval: {gen_kwargs: {temperature: 0.70, do_sample: yes, top_k: 10}}")
    assert cfg.eval.gen_kwargs == {"temperature": 0.7, "do_sample": True, "top_k": 10}


def test_a_recipes_own_name_may_look_like_a_number_or_a_switch(tmp_path: Path) -> None:
    assert composed(tmp_path, "name: 007").name == "007"
    assert composed(tmp_path, "name: no").name == "no"


@pytest.mark.parametrize("header", ["", "# @package registry\n"])
def test_a_groups_file_is_read_so_too(header: str, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "own.yaml").write_text(f"{header}model_version: 1.10\n", encoding="utf-8")
    assert composed(tmp_path, "", "registry=own").registry.model_version == "1.10"


def test_a_groups_file_of_the_whole_recipe_is_read_so_too(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    text = "# @package _global_\nregistry: {model_version: 1.10}\n"
    (tmp_path / "registry" / "own.yaml").write_text(text, encoding="utf-8")
    assert composed(tmp_path, "", "registry=own").registry.model_version == "1.10"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("registry.labels", "[1.10,b]", "['1.10',b]"),
        ("registry.model_version", "1.10,2", "'1.10','2'"),
        ("registry.model_version", "'1.10'", "'1.10'"),
        ("registry.model_version", "a 1", "a 1"),
        ("registry.model_version", "${oc.env:V}", "${oc.env:V}"),
        ("training.learning_rate", "1e-5", "1e-5"),
        ("training.lora.rank_pattern", "{a: 4}", "{a: 4}"),
        ("eval.gen_kwargs.temperature", "0.7", "0.7"),
    ],
)
def test_only_texts_are_quoted(key: str, value: str, expected: str) -> None:
    assert override_value(key, value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (
            "registry: &r {model_version: 1.10}\nnone: *r",
            {"registry": {"model_version": "1.10"}, "none": {"model_version": "1.10"}},
        ),
        ("registry: {<<: {model_version: 1.10}}", {"registry": {"model_version": "1.10"}}),
        ("unknown: 1.10", {"unknown": 1.1}),
    ],
)
def test_anchors_merges_and_unknown_keys(text: str, expected: Any) -> None:
    assert load(text) == expected
