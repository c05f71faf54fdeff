"""The real model that the package index has, as it is known from its publisher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.checkpoint_files import read_tensors
from sft.adapters.smollm2 import main

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.exhaustive
def test_weights_tokenizer_template_and_config_are_those_of_smollm2(smollm2: Path) -> None:
    tensors = read_tensors(smollm2)
    assert sum(tensor.size for tensor in tensors.values()) == 134_515_008
    assert {tensor.dtype for tensor in tensors.values()} == {"BF16"}
    config = json.loads((smollm2 / "config.json").read_text(encoding="utf-8"))
    known = {"hidden_size": 576, "num_hidden_layers": 30, "num_key_value_heads": 3, "tie_word_embeddings": True}
    assert known.items() <= config.items()
    assert "quantization_config" not in config
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (len(tokenizer), tokenizer.model_max_length) == (49152, 8192)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    # Each digit stands apart, and takes no space before it.
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  1 12x")["input_ids"]) == ["a", "ĠĠ", "1", "Ġ", "1", "2", "x"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("kept")
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path} is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
