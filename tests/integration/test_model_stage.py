"""The model stage on a folder: what a base model is told to become, and what it is refused for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from sft.adapters.checkpoint_files import read_tensors
from sft.artifacts import ModelArtifact
from sft.config.schema import AddTokensConfig, ModelConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.model import ModelInputs, model, source_version
from tests.support import architectures
from tests.support.command import sft_in_process
from tests.support.register_inputs import Told

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def run(
    base: Path,
    out: Path,
    *,
    add_tokens: AddTokensConfig | None = None,
    chat_template: str | None = None,
    adapter: str | None = None,
) -> ModelArtifact:
    out.mkdir()
    settings = ModelConfig(name_or_path=str(base), chat_template=chat_template, adapter=adapter)
    if add_tokens:
        settings.add_tokens = add_tokens
    return model(settings, ModelInputs(dataset=None), out, Progress(quiet=True))


@pytest.mark.long
def test_a_model_with_new_tokens_is_a_larger_copy_of_its_base(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny_model.model_dir
    made = run(base, tmp_path / "out", add_tokens=AddTokensConfig(special=["<|call|>"], plain=["milliard"]))
    assert made.adapted_model == str(tmp_path / "out")
    assert (made.model_dir, made.source) == (tmp_path / "out", str(base))
    tokenizer, loaded = (
        AutoTokenizer.from_pretrained(made.model_dir),
        AutoModelForCausalLM.from_pretrained(made.model_dir),
    )
    original = AutoModelForCausalLM.from_pretrained(base)
    old = original.get_input_embeddings().weight
    new = loaded.get_input_embeddings().weight
    [call, word] = tokenizer.convert_tokens_to_ids(["<|call|>", "milliard"])
    assert torch.equal(new[: len(old)], old)
    assert torch.allclose(new[[call, word]], old.mean(dim=0).expand(2, -1), atol=1e-6)
    assert "lm_head.weight" not in read_tensors(made.model_dir)
    assert (made.model_dir / "chat_template.jinja").read_bytes() == (base / "chat_template.jinja").read_bytes()
    assert loaded.config.vocab_size == len(new)
    assert made.num_parameters == sum(tensor.size for tensor in read_tensors(made.model_dir).values())


@pytest.mark.long
def test_new_tokens_and_another_template_go_together(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    turns = "{% for m in messages %}<|call|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    template = turns + "{% if add_generation_prompt %}<|call|>assistant: {% endif %}"
    (tmp_path / "own.jinja").write_text(template)
    tokens = AddTokensConfig(special=["<|call|>"])
    made = run(tiny_model.model_dir, tmp_path / "out", add_tokens=tokens, chat_template=str(tmp_path / "own.jinja"))
    tokenizer = AutoTokenizer.from_pretrained(made.model_dir)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert rendered.startswith("<|call|>user: Hi<|im_end|>")
    assert tokenizer.encode("<|call|>", add_special_tokens=False) == [tokenizer.convert_tokens_to_ids("<|call|>")]
    assert not any(file.is_symlink() for file in made.model_dir.iterdir() if file.suffix == ".safetensors")


def test_a_further_template_of_a_folder_is_one_of_the_models_files(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    before = source_version(ModelConfig(name_or_path=str(base)))
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    assert source_version(ModelConfig(name_or_path=str(base))) != before


@pytest.mark.long
def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused_with_its_remedy_and_taken_with_it(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    base = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|call|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(base)
    with pytest.raises(StageError, match=r"without one are <\|call\|>") as caught:
        run(base, tmp_path / "refused")
    assert "model.add_tokens" in str(caught.value.fix)
    made = run(base, tmp_path / "taken", add_tokens=AddTokensConfig(special=["<|call|>"]))
    rows = read_tensors(made.model_dir)["model.embed_tokens.weight"].shape[0]
    assert rows >= len(tokenizer)


@pytest.mark.long
def test_a_head_that_the_config_ties_but_that_differs_is_refused_with_its_remedy(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    base = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    save_file({**weights, "lm_head.weight": 2 * weights["model.embed_tokens.weight"]}, base / "model.safetensors")
    with pytest.raises(StageError, match="both are stored and differ") as caught:
        run(base, tmp_path / "out", add_tokens=AddTokensConfig(special=["<|call|>"]))
    assert "tie_word_embeddings to false" in str(caught.value.fix)


@pytest.mark.long
def test_weights_that_no_class_reads_are_said_and_recorded(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    base = shutil.copytree(tiny_model.model_dir, tmp_path / "base")
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
    shape = {**architectures.SHAPE, "vocab_size": 400, "num_nextn_predict_layers": 1}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("glm4_moe", **shape, **experts)).save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    further = {"model.layers.92.eh_proj.weight": weights["model.norm.weight"].clone()}
    save_file(weights | further, base / "model.safetensors", metadata={"format": "pt"})
    told = Told()
    (tmp_path / "out").mkdir()
    made = model(ModelConfig(name_or_path=str(base)), ModelInputs(dataset=None), tmp_path / "out", told)
    assert made.unread_weights.startswith("1 stored weights are not read by Glm4MoeForCausalLM")
    assert f"  {made.unread_weights}" in told.lines
    named = lora_of(base, tmp_path / "adapter", str(base), target_modules=["q_proj"])
    merged = sft_in_process("merge", str(base), str(named), "--output", str(tmp_path / "merged"), cwd=tmp_path)
    assert merged.status == 0, merged.err
    assert f"note: {made.unread_weights}" in merged.out


@pytest.mark.long
def test_tokens_that_are_all_there_are_refused(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the tokenizer has all of these"):
        run(tiny_model.model_dir, tmp_path / "out", add_tokens=AddTokensConfig(special=["<|im_end|>"]))


EVIL = "open({ran!r}, 'a').close()\n"


def hostile(base: Path, folder: Path, *, config: dict[str, object]) -> Path:
    """Copies a model's folder, with code wherever transformers looks for some; returns the file that it would make."""
    ran = folder.parent / "ran"
    shutil.copytree(base, folder)
    pickled = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    for name in ("modeling_evil.py", "tokenization_evil.py", "custom_generate/generate.py", "processing_evil.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(EVIL.format(ran=str(ran)))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(pickled)
    additions: dict[str, dict[str, object]] = {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "EvilTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"]},
        },
        "processor_config.json": {"processor_class": "E", "auto_map": {"AutoProcessor": "processing_evil.E"}},
        "generation_config.json": {"custom_generate": str(folder)},
    }
    for name, values in additions.items():
        before = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**before, **values}))
    return ran


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "modeling_evil.Evil")}, None),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.Evil"}}, "custom code"),
        ({"text_config": {"auto_map": {"AutoConfig": "org/repo--modeling_evil.Evil"}}}, "outside of the model's"),
        ({"text_config": {"attn_implementation": "org/kernel"}}, "would fetch code from another repository"),
        ({"attn_implementation": {"text_config": "org/kernel"}}, "would fetch code from another repository"),
    ],
    ids=["own class", "own type", "nested map", "nested kernel", "kernel by part"],
)
def test_no_code_that_comes_with_a_model_runs(
    config: dict[str, object], refusal: str | None, tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    ran = hostile(tiny_model.model_dir, tmp_path / "model", config=config)
    if refusal:
        with pytest.raises(StageError, match=refusal):
            run(tmp_path / "model", tmp_path / "out")
    else:
        run(tmp_path / "model", tmp_path / "out")
    assert not ran.exists()


def lora_of(base: Path, folder: Path, name: str, target_modules: Sequence[str] = ("up_proj",)) -> Path:
    """An adapter of `base` with random matrices, which says that its base is called `name`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {"r": 2, "lora_alpha": 3, "target_modules": [*target_modules]}
    config = LoraConfig(**shape, init_lora_weights=False, task_type="CAUSAL_LM")
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    made.peft_config["default"].base_model_name_or_path = name
    made.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.long
def test_an_adapter_is_merged_into_the_model_first_and_kept_in_the_record(
    tiny_model: ModelArtifact, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    adapter = lora_of(tiny_model.model_dir, tmp_path / "adapter", str(tiny_model.model_dir))
    made = run(tiny_model.model_dir, tmp_path / "out", adapter=str(adapter))
    assert made.model_dir == tmp_path / "out"
    assert made.adapted_model == str(tmp_path / "out")  # what an adapter is of that is trained on it
    assert made.adapter.keys() == {str(adapter / name) for name in ("adapter_config.json", "adapter_model.safetensors")}
    before, parts = (
        load_file(tiny_model.model_dir / "model.safetensors"),
        load_file(adapter / "adapter_model.safetensors"),
    )
    after, name = load_file(tmp_path / "out" / "model.safetensors"), "model.layers.0.mlp.up_proj"
    lora_a, lora_b = (parts[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
    expected = before[f"{name}.weight"] + 3 / 2 * lora_b @ lora_a
    assert torch.allclose(after[f"{name}.weight"], expected, atol=1e-6)
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    config = ModelConfig(name_or_path=str(tiny_model.model_dir), adapter=str(adapter))
    before_it_changed = source_version(config)
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + "\n")
    assert source_version(config) != before_it_changed


def test_an_adapter_of_another_model_is_refused_by_the_plan(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    adapter = lora_of(tiny_model.model_dir, tmp_path / "adapter", "org/other")
    config = ModelConfig(name_or_path=str(tiny_model.model_dir), adapter=str(adapter))
    with pytest.raises(StageError, match="is an adapter of org/other, not of"):
        source_version(config)
