"""Files of other projects are read as data: whose they are, flags, and what a hostile one may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.errors import ConfigError
from sft.importing.convert import convert
from sft.importing.reading import read
from sft.importing.values import shown

FLAGS = """# how it was called
trl sft \\
    --model_name_or_path org/base \\
    --dataset_name org/data --learning_rate 2.0e-5 \\
    --lora_target_modules q_proj v_proj \\
    --eos_token '<|im_end|>' --packing --no_gradient_checkpointing --seed=7
"""
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


def test_flags_of_a_command_are_read_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "train.sh"
    file.write_text(FLAGS)
    assert read(file) == {
        "model_name_or_path": "org/base",
        "dataset_name": "org/data",
        "learning_rate": 2e-5,
        "lora_target_modules": ["q_proj", "v_proj"],
        "eos_token": "<|im_end|>",
        "packing": True,
        "gradient_checkpointing": False,
        "seed": 7,
    }
    assert convert(file).project.name == "trl"


@pytest.mark.parametrize(
    "text",
    [
        "trl dpo --model_name_or_path a --dataset_name b",
        "accelerate launch --num_processes 8 trl/scripts/grpo.py --model_name_or_path a --dataset_name b",
        "python reward_modeling.py --model_name_or_path a --dataset_name b",
    ],
)
def test_the_flags_of_another_training_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text(text)
    with pytest.raises(ConfigError, match="is another training than `trl sft`"):
        read(tmp_path / "train.sh")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "base_model: !!python/object/apply:os.system [touch x]\n", "line 1"),
        ("a.yaml", "base_model: !include other.yaml\n", "line 1"),
        ("a.yaml", BOMB, "unfolds to more than 100,000 values, through anchors (line 5)"),
        ("a.yaml", "base_model: x\nlora_r: 8\nlora_r: 16\n", "lora_r twice (lines 2 and 3)"),
        ("a.yaml", "x: &a [*a]\n", "line 1"),
        ("a.yaml", "[" * 3000, "nested too deeply"),
        ("a.yaml", "- 1\n- 2\n", "is no mapping"),
        ("a.yaml", "base_model: x\n1: 2\n", "no text: quote it"),
        ("a.yaml", "base_model: 2026-01-01\n", "neither text nor a number"),
        ("a.yaml", "learning_rate: .nan\n", "finite"),
        ("a.yaml", "base_model: x\ndatasets[7].path: y\n", "datasets[7].path is no name of a setting: nest it"),
        (
            "a.yaml",
            "checkpointer: {_component_: x, checkpoint_files.max_filename: 1, checkpoint_files: {max_filename: 2}}\n",
            "checkpointer.checkpoint_files.max_filename: is there nested and as a name with a dot",
        ),
        ("a.json", '{"base_model": NaN}', "finite"),
        ("a.json", '{"base_model": 1, "base_model": 2}', "says base_model twice"),
        ("a.json", '{"base_model": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
        ("a.json", '{"base_model": ' + "[" * 100_000, "nested too deeply"),
        ("a.yaml", "x" * (2 << 20), "larger than 1 MiB"),
        ("a.yaml", "\udcff", "a.yaml"),
        ("run.sh", "trl sft --model_name_or_path $MODEL\n", "line 1 is for a shell"),
        ("run.sh", "--model_name_or_path x\n--seed `id`\n", "line 2 is for a shell"),
        ("run.sh", "--seed 1\n--seed 2\n", "line 2 says --seed twice"),
        ("run.sh", "--seed '1\n", "line 1"),
    ],
)
def test_a_hostile_or_broken_file_is_refused_with_its_name(name: str, text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        convert(file)
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour: red\n", "no key by which"),
        ("base_model: x\nfinetuning_type: lora\n", "several projects: axolotl has base_model; LLaMA-Factory has"),
    ],
)
def test_what_is_of_none_or_of_several_needs_to_be_said(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        convert(file)
    assert says in str(caught.value)
    assert "--from axolotl|llama-factory|torchtune|trl" in str(caught.value)
    assert convert(file, "axolotl").project.name == "axolotl"


def test_a_folder_and_what_is_not_there_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nosuch.yaml"):
        with pytest.raises(ConfigError, match=path.name):
            convert(path)


def test_json_is_read_as_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{\n\t"base_model": "a\\/b",\n\t"wandb_project": "\\ud83d\\ude00"\n}')
    assert read(file) == {"base_model": "a/b", "wandb_project": "\U0001f600"}


def test_secrets_and_control_characters_are_not_shown() -> None:
    assert shown("swanlab_api_key", "abcdefgh") == "(a secret)"
    assert shown("datasets[0].hub_token", "abcdefgh") == "(a secret)"
    assert shown("env", {"HF": {"TOKEN": "abcdefgh"}, "n": 1}) == '{"HF": {"TOKEN": "(a secret)"}, "n": 1}'
    assert shown("hub_token", ["abcdefgh"]) == '["(a secret)"]'
    assert shown("special_tokens.pad_token", "<pad>") == "<pad>"
    assert shown("base_model", "a\x1b[31m\nb\u2028c") == "a [31m b c"
    assert len(shown("base_model", "x" * 500)) == 80
