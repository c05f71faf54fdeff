"""Each shipped recipe is planned on the hardware that its header names, with no network: what trains fits into memory.

The GPUs are those of a driver's program of our own; a model is a folder with the `config.json` of the one it names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.os import gpus
from sft.config.compose import compose, find_recipe, recipes
from sft.config.schema import LauncherKind, ModelSource, RunConfig
from tests.support.command import sft_in_process

pytestmark = pytest.mark.slow  # seconds each: a CPU's precision is timed, sweeps have many points

_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def config(kind: str, architecture: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    shape = dict(zip(_KEYS, sizes, strict=True))
    return (
        {"model_type": kind, "architectures": [architecture], "hidden_act": "silu", "dtype": "bfloat16"} | shape | more
    )


QWEN2, QWEN3, MOE = "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"
MODELS = {
    "Qwen/Qwen2.5-1.5B-Instruct": config(
        "qwen2", QWEN2, (1536, 8960, 28, 12, 2, 151936, 32768), tie_word_embeddings=True
    ),
    "Qwen/Qwen2.5-7B-Instruct": config(
        "qwen2", QWEN2, (3584, 18944, 28, 28, 4, 152064, 32768), tie_word_embeddings=False
    ),
    "Qwen/Qwen3-4B-Instruct-2507": config(
        "qwen3", QWEN3, (2560, 9728, 36, 32, 8, 151936, 262144), head_dim=128, tie_word_embeddings=True
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": config(
        "qwen3_moe",
        MOE,
        (2048, 6144, 48, 32, 4, 151936, 262144),
        head_dim=128,
        tie_word_embeddings=False,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    ),
    "./models/smollm2": config(
        "llama", "LlamaForCausalLM", (576, 1536, 30, 9, 3, 49152, 8192), tie_word_embeddings=True
    ),
}
"""Shapes as these models publish them."""
MODELS["./models/base"] = MODELS["./models/smollm2"]


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind: how many, compute capability, memory in MiB."""

    number: int
    name: str = ""
    capability: str = ""
    mib: int = 0

    def program(self) -> str:
        """Return a driver's program that shows them."""
        rows = [
            f"{place}, GPU-{place}5d11aaa, {self.name}, {self.capability}, {self.mib}, {self.mib - 400}, Disabled"
            for place in range(self.number)
        ]
        return "#!/bin/sh\ncase $1 in -L|topo) ;; *) cat <<'E'\n" + "\n".join(rows) + "\nE\n;; esac\n"


CPU = Machine(0)
A100 = Machine(1, "NVIDIA A100-PCIE-40GB", "8.0", 40960)
RTX4080 = Machine(1, "NVIDIA GeForce RTX 4080", "8.9", 16376)
RTX4090 = Machine(1, "NVIDIA GeForce RTX 4090", "8.9", 24564)
HARDWARE = {
    "fsdp_sweep": Machine(2, RTX4090.name, "8.9", 24564),
    "gsm8k": A100,
    "kfp-pod": A100,
    "long_context": Machine(4, "NVIDIA H100 80GB HBM3", "9.0", 81559),
    "lora_24gb": RTX4090,
    "mix": A100,
    "moe": Machine(8, "NVIDIA H100 80GB HBM3", "9.0", 81559),
    "nodes": Machine(8, "NVIDIA H100 80GB HBM3", "9.0", 81559),
    "optuna": RTX4090,
    "original": A100,
    "qlora_7b": RTX4080,
    "s3": A100,
    "tools": A100,
}
"""What a recipe's header asks for; the others run on a CPU, or in pods, of which nothing is known here."""
OPEN = {"kfp", "kfp-pod", "original"}
"""Recipes that leave to the command line where the data is."""
ROWS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine of a recipe, without a network."""
    has: Machine = HARDWARE.get(request.node.callspec.params["name"], CPU)
    if has.number:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "nvidia-smi").write_text(has.program())
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    gpus.forget()
    yield has
    monkeypatch.undo()
    gpus.forget()


def overrides(cfg: RunConfig, folder: Path) -> list[str]:
    """Return what puts files in the place of what would be asked over a network, or lies on a volume."""
    rows, model = folder / "rows.jsonl", folder / "model"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODELS[cfg.model.name_or_path]))
    found = [f"model.name_or_path={model}", f"run_root={folder}/runs"]
    for group in [f"dataset.sources.{name}" for name in cfg.dataset.sources] or ["dataset"]:
        found += [f"{group}.uri={rows}", f"{group}.split=null"]
    if cfg.training.launcher.kind is LauncherKind.kubeflow:
        found.append(f"training.launcher.mount_path={folder}")
    return found


NAMES = [recipe.name for recipe in recipes()]


def test_hardware_is_that_of_shipped_recipes() -> None:
    assert HARDWARE.keys() <= set(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_and_fits_on_the_hardware_of_its_header(
    name: str, machine: Machine, tmp_path: Path
) -> None:
    cfg = compose(find_recipe(name), ["dataset.uri=data.jsonl"] if name in OPEN else [])
    ours = overrides(cfg, tmp_path) if cfg.model.source is ModelSource.pretrained else []
    answer = sft_in_process("plan", name, *ours, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "will run  never done in this run_root" in answer.out
    if machine.number:
        [chosen] = [line for line in answer.out.splitlines() if line.endswith("<- chosen")]
        assert " fits, up to " in chosen, answer.out
        assert f"num_processes           {machine.number}" in answer.out
