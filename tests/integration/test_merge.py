"""`sft merge`: the weights are the base's and the weighted sum of the adapters' products, in a folder with a record."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.files import sha256_file
from tests.support.command import sft_in_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
WEIGHTS = {"one": 0.75, "other": -0.5}


def adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """An adapter of `base` with random matrices, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def made(tiny_model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, base = tmp_path_factory.mktemp("adapters"), tiny_model.model_dir
    return {
        "base": base,
        "one": adapter(base, folder / "one", 1, r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"]),
        "other": adapter(
            base, folder / "other", 2, r=2, lora_alpha=3, use_rslora=True, target_modules=["up_proj", "down_proj"]
        ),
        "biased": adapter(base, folder / "biased", 4, r=2, lora_alpha=3, bias="all", target_modules=["q_proj"]),
        "dora": adapter(base, folder / "dora", 3, r=2, lora_alpha=3, use_dora=True, target_modules=["v_proj"]),
    }


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def spoil(file: Path) -> None:
    """Make one value of an adapter NaN."""
    from safetensors.torch import load_file, save_file

    parts = load_file(file)
    parts[min(parts)][0, 0] = math.nan
    save_file(parts, file, metadata={"format": "pt"})


@pytest.mark.long
def test_the_merged_weights_are_the_formulas_and_the_record_says_of_what(made: dict[str, Path], tmp_path: Path) -> None:
    import torch

    output = tmp_path / "both"
    named = [f"{made[name]}={weight}" for name, weight in WEIGHTS.items()]
    done = sft_in_process("merge", str(made["base"]), *named, "--output", str(output), cwd=tmp_path)
    assert done.status == 0, done.err
    expected = {name: value.double() for name, value in tensors(made["base"]).items()}
    for name, scale in (("one", 6 / 4), ("other", 3 / math.sqrt(2))):
        parts = tensors(made[name])
        for key, lora_a in parts.items():
            if "lora_A" in key:
                weight = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
                product = parts[key.replace("lora_A", "lora_B")].double() @ lora_a.double()
                expected[weight] += WEIGHTS[name] * scale * product
    found = tensors(output)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    record = json.loads((output / "merge.json").read_text())
    assert [each["weight"] for each in record["adapters"]] == [0.75, -0.5]
    assert record["adapters"][0]["files"]["adapter_config.json"] == sha256_file(made["one"] / "adapter_config.json")
    assert record["base"]["files"]["config.json"] == sha256_file(made["base"] / "config.json")
    assert (output / "tokenizer.json").read_bytes() == (made["base"] / "tokenizer.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["both"]


@pytest.mark.long
def test_weights_of_the_base_that_are_not_there_are_named_and_the_log_is_kept(
    made: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(made["base"], base)
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()  # of the fixture it may be a link
    kept = {name: value for name, value in weights.items() if "layers.1.mlp.up" not in name}
    save_file(kept, base / "model.safetensors")
    named = adapter(base, tmp_path / "adapter", 1, r=2, target_modules=["up_proj"])
    refused = sft_in_process("merge", str(base), str(named), "--output", str(tmp_path / "merged"), cwd=tmp_path)
    assert refused.status == 1
    assert "1 missing, which would be random: model.layers.1.mlp.up_proj.weight" in refused.err
    assert Path(refused.err.split("log: ")[1].strip()).is_file()
    assert not (tmp_path / "merged").exists()


@pytest.mark.long
def test_one_adapter_alone_may_be_more_than_a_product(made: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    output = tmp_path / "dora"
    done = sft_in_process("merge", str(made["base"]), str(made["dora"]), "--output", str(output), cwd=tmp_path)
    assert done.status == 0, done.err
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made["base"]), made["dora"]).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        wanted, found = alone(ids).logits, AutoModelForCausalLM.from_pretrained(output)(ids).logits
    assert torch.allclose(wanted, found, atol=1e-4)


@pytest.mark.long
def test_what_can_not_be_merged_is_refused_and_leaves_nothing(made: dict[str, Path], tmp_path: Path) -> None:
    base, output = str(made["base"]), ["--output", str(tmp_path / "out" / "model")]

    def refused(*adapters: str) -> str:
        answer = sft_in_process("merge", base, *adapters, *output, cwd=tmp_path)
        assert answer.status in (1, 2)
        return answer.err

    assert "use_dora, which is no product of matrices" in refused(str(made["dora"]), str(made["one"]))
    assert "use_dora, which is no product of matrices" in refused(f"{made['dora']}=0.5")
    assert "bias, which is no product of matrices" in refused(f"{made['biased']}=0.5")
    assert "no adapter_config.json" in refused(base)
    assert "must be FOLDER or FOLDER=WEIGHT" in refused(f"{made['one']}=half")
    other = tmp_path / "other"
    other.mkdir()
    for file in made["one"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "adapter_config.json").read_text())
    for changes, said in (
        ({"base_model_name_or_path": "org/model"}, "is an adapter of org/model"),
        ({"target_modules": ["q_proj"]}, "matrices, for"),
        ({"r": 8}, "is not an adapter of this model"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the base: it is no adapter of that itself"),
        ({"peft_type": "LOHA"}, "is an adapter of the kind LOHA"),
    ):
        (other / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        assert said in refused(str(other))
    (other / "adapter_config.json").write_text(json.dumps(config))
    spoil(other / "adapter_model.safetensors")
    assert "has values that are no numbers" in refused(f"{other}=0.5")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert "is there already" in refused(str(made["one"]))
