"""Modelfiles: the chat template in Go, proved on prompts; parameters; what can't be translated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.export.chat_form import translated
from sft.adapters.export.go_template import render
from sft.adapters.export.ollama import compare_prompts
from sft.adapters.os.process import run_module
from sft.artifacts import DatasetArtifact, ModelArtifact
from sft.chat.template import Renderer
from sft.errors import StageError

pytestmark = pytest.mark.slow
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|h|>' + message['role'] + '<|e|>\n\n' + message['content'] | trim"
    " + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|e|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' and loop.last else '')"
    " + message['content'] + '[/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def renderer(tiny_model: ModelArtifact, template: str, bos: str | None = None) -> Renderer:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.model_dir)
    tokenizer.chat_template = template
    if bos:
        tokenizer.bos_token = bos
    return Renderer(tokenizer, frozenset({tokenizer.eos_token}))


def test_a_default_system_prompt_is_found_and_the_generation_prompt_too(tiny_model: ModelArtifact) -> None:
    form = translated(renderer(tiny_model, CHATML))
    assert form.system == "You are SmolLM."
    assert form.form.generation == "<|im_start|>assistant\n<think>\n"
    assert form.form.around["assistant"] == ("<|im_start|>assistant\n", "<|im_end|>\n")


def test_the_token_that_begins_a_text_is_left_to_the_server(
    tiny_model: ModelArtifact, tiny_data: DatasetArtifact
) -> None:
    llama = renderer(tiny_model, LLAMA3, bos="<|endoftext|>")
    form = translated(llama)
    assert form.bos == "<|endoftext|>"
    chat: list[Mapping[str, str]] = [{"role": "user", "content": "hi"}]
    assert render(form.form.template(), chat) == "<|h|>user<|e|>\n\nhi<|eot|><|h|>assistant<|e|>\n\n"
    details, notes = compare_prompts(llama, form, [{"name": "holdout", "file": str(tiny_data.eval_file)}])
    assert details == {"held_out": {"holdout": 20}, "edge_cases": 10}
    assert ["spaces around" in notes[0], "lines" in notes[1]] == [True, True]  # Go's has no trim


def test_a_template_that_looks_at_other_turns_is_refused(tiny_model: ModelArtifact) -> None:
    with pytest.raises(StageError, match="does more than put texts around turns"):
        translated(renderer(tiny_model, MISTRAL, bos="<|endoftext|>"))


def test_samples_with_tools_are_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    own = renderer(tiny_model, CHATML)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}) + "\n"
    )
    with pytest.raises(StageError, match="held-out sample 1 of holdout has tools"):
        compare_prompts(own, translated(own), [{"name": "holdout", "file": str(rows)}])


def write(model: Path, tmp_path: Path, **settings: Any) -> tuple[str, Mapping[str, Any]]:
    asked = {
        "model_dir": str(model),
        "file": str(tmp_path / "Modelfile"),
        "gguf": "m.gguf",
        "context_length": 2048,
        "held_out": [],
        **settings,
    }
    result = run_module("sft.adapters.export.ollama", asked, folder=tmp_path / "work", what="writing the Modelfile")
    return (tmp_path / "Modelfile").read_text(), result


def test_a_modelfile_says_all_that_ollama_would_guess(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    text, result = write(tiny_model.model_dir, tmp_path, context_length=40_000)
    assert text.startswith('FROM ./m.gguf\nTEMPLATE """{{ range .Messages }}')
    assert text.endswith(
        'PARAMETER num_ctx 8192\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1.0\n'
    )
    assert result["notes"] == ["num_ctx is 8192, of 40000 that the model takes: edit the Modelfile"]


def test_what_the_model_says_of_writing_becomes_parameters(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.model_dir.iterdir():
        if file.is_file():
            (model / file.name).symlink_to(file)
    told = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": None,
        "repetition_penalty": 1.2,
        "typical_p": 0.9,
        "max_new_tokens": 99,
    }
    (model / "generation_config.json").unlink(missing_ok=True)
    (model / "generation_config.json").write_text(json.dumps(told))
    text, result = write(model, tmp_path)
    unsaid = ("top_p 1.0", "min_p 0.0")  # Ollama has defaults of its own
    for line in ("temperature 0.7", "top_k 20", "repeat_penalty 1.2", "repeat_last_n -1", "num_predict 99", *unsaid):
        assert f"PARAMETER {line}\n" in text
    assert result["notes"] == ["generation_config.json: Ollama has no typical_p"]
