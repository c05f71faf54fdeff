"""Models made from nothing, as transformers sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.config.schema import ModelConfig, ModelSource, ScratchConfig
from sft.progress import Progress
from sft.stages.model import ModelInputs, model

pytestmark = [
    pytest.mark.slow,  # imports transformers
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_transformers_finds_every_weight_and_none_too_many(tiny_model: ModelArtifact) -> None:
    from transformers import AutoModelForCausalLM

    loaded, facts = AutoModelForCausalLM.from_pretrained(tiny_model.model_dir, output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    assert sum(p.numel() for p in loaded.parameters()) == tiny_model.num_parameters
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    assert loaded.config.eos_token_id == 2
    embeddings = loaded.get_input_embeddings().weight
    assert embeddings.std().item() == pytest.approx(0.05, rel=0.05)
    assert embeddings.mean().item() == pytest.approx(0.0, abs=0.005)


def test_every_text_survives_the_tokenizer_and_turns_have_their_tokens(tiny_model: ModelArtifact) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    text = "naïve 10°C, 一二三, 🙂\n\ttabs"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    turns = [{"role": "user", "content": "7"}, {"role": "assistant", "content": "seven"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered == "<|im_start|>user\n7<|im_end|>\n<|im_start|>assistant\nseven<|im_end|>\n"
    assert tokenizer.encode("<|im_start|><|im_end|>") == [1, 2]
    assert tokenizer.model_max_length == 2048


def test_the_same_seed_makes_the_same_files_and_another_one_others(tiny_data: DatasetArtifact, tmp_path: Path) -> None:
    made = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        out = tmp_path / name
        out.mkdir()
        shape = ScratchConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, vocab_size=300, seed=seed)
        cfg = ModelConfig(source=ModelSource.scratch, scratch=shape)
        model(cfg, ModelInputs(dataset=tiny_data), out, Progress(quiet=True))
        made.append((out / "model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]
