"""What is refused of a base model from its files alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.errors import StageError
from sft.stages.model_checks import check_config, check_folder, dtype_note, stops_note

CAUSAL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    "config",
    [
        CAUSAL,
        {"model_type": "llama"},
        {**CAUSAL, "_name_or_path": "/home/somebody/run", "auto_map": {"AutoConfig": "configuration.Config"}},
        {**CAUSAL, "attn_implementation": "sdpa"},
        {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}},
    ],
)
def test_a_config_of_a_causal_model_is_taken(config: dict[str, Any]) -> None:
    check_config(config, "model.name_or_path=x")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "no model_type"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "architectures=GPT2LMHeadModel"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "architectures=BertForMaskedLM"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "ForSequenceClassification"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "t5 is an encoder-decoder model",
        ),
        ({**CAUSAL, "quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method=bitsandbytes"),
        ({**CAUSAL, "quantization_config": {"quant_method": "gptq"}}, "quant_method=gptq"),
        ({**CAUSAL, "quantization_config": {"quant_method": "fp8"}}, "quant_method=fp8"),
        ({**CAUSAL, "transformers_weights": "../other.safetensors"}, "transformers_weights=../other.safetensors"),
        ({**CAUSAL, "attn_implementation": "kernels-community/flash-attn"}, "would fetch code from another repository"),
        ({**CAUSAL, "auto_map": {"AutoModelForCausalLM": "org/name--model.Model"}}, "auto_map.AutoModelForCausalLM"),
    ],
)
def test_a_config_that_cannot_be_trained_or_leaves_its_folder_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(StageError) as caught:
        check_config(config, "model.name_or_path=x")
    assert caught.value.message.startswith("model.name_or_path=x: config.json: ")
    assert said in caught.value.message
    assert caught.value.fix


def test_every_reason_is_said_at_once() -> None:
    config = {"model_type": "t5", "is_encoder_decoder": True, "quantization_config": {"quant_method": "gptq"}}
    with pytest.raises(StageError, match=r"encoder-decoder.*; quantized"):
        check_config(config, "x")


def test_an_adapter_is_refused_even_beside_a_config(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    check_folder(folder, "x")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "../elsewhere"}')
    with pytest.raises(StageError, match="holds an adapter") as caught:
        check_folder(folder, "x")
    assert "sft merge" in str(caught.value.fix)


def test_a_config_that_says_another_type_than_the_weights_have_is_noted(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    assert dtype_note(folder) is None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}), encoding="utf-8")
    note = "weights are stored in float32, but config.json says bfloat16: they are rounded to bfloat16 when loaded"
    assert dtype_note(folder) == note


def test_stops_that_only_the_config_names_are_noted(tmp_path: Path) -> None:
    for stops, elsewhere, is_noted in (
        ([1, 2], None, True),
        ([1, 2], [1, 2], False),
        ([1], None, False),
        (1, None, False),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": stops}))
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": elsewhere}))
        note = stops_note(tmp_path)
        assert (note is not None) == is_noted
        assert note is None or note.startswith("config.json names 2 tokens at which the model stops")
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": [1, 2]}')
    assert stops_note(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_torn_file_of_the_tokenizer_is_named(tiny_model: ModelArtifact, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    whole = (folder / name).read_bytes()
    for content, said in {
        whole[: len(whole) // 2]: "Input data was truncated",
        whole.replace(b'"', b'"\xff', 1): "can't decode byte 0xff",
        b"": "Input data was truncated",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "JSON is malformed",
    }.items():
        (folder / name).write_bytes(content)
        with pytest.raises(StageError, match=rf"^{re.escape(str(folder / name))}: not valid JSON: .*{said}"):
            check_folder(folder, "x")
    (folder / name).write_bytes(b"[]")
    with pytest.raises(StageError, match=rf"^{re.escape(str(folder / name))}: must be a JSON object"):
        check_folder(folder, "x")
    (folder / name).write_bytes(whole)
    check_folder(folder, "x")


def test_an_object_that_is_no_tokenizer_is_named(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(StageError, match=r"tokenizer\.json: has no added_tokens, so it is no tokenizer"):
        check_folder(folder, "x")


def test_a_file_that_would_fill_the_memory_is_no_part_of_a_model(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    for name, message in {
        "config.json": "config.json: not valid JSON: is larger than 16 MiB",
        "tokenizer.json": "x: tokenizer.json has more than 256 MiB",
    }.items():
        folder = shutil.copytree(tiny_model.model_dir, tmp_path / name)
        with (folder / name).open("ab") as file:
            file.truncate(10 << 30)
        with pytest.raises(StageError, match=message):
            check_folder(folder, "x")
