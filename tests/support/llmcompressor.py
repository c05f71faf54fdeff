"""An environment with a stand-in for llm-compressor: a real interpreter and process, the same calls, the same files.

It rounds to the nearest where the real one makes up for errors. `tests/unit/adapters/export/test_int4.py` runs the
real one too, if ``SFT_TEST_LLMCOMPRESSOR_PYTHON`` names an interpreter that has it (0.14.0.1 was compared).
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

VERSION = "0.0.1"


def environment(folder: Path) -> Path:
    """Make a virtual environment, and return its interpreter."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch and transformers
    gptq = packages / "llmcompressor" / "modifiers" / "gptq"
    gptq.mkdir(parents=True)
    (gptq.parent / "__init__.py").touch()
    (gptq / "__init__.py").write_text("class GPTQModifier(dict):\n    pass\n")
    (packages / "llmcompressor" / "__init__.py").write_text(ONESHOT)
    facts = packages / f"llmcompressor-{VERSION}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llmcompressor\nVersion: {VERSION}\n")
    return folder / "bin" / "python"


ONESHOT = """
import json
import os
import signal
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

FAULT = os.environ.get("STAND_IN_FAULT", "")


class OutOfMemoryError(Exception):
    pass


def oneshot(*, model, tokenizer, dataset, recipe, num_calibration_samples, max_seq_length, shuffle_calibration_samples):
    assert len(dataset) == num_calibration_samples and not shuffle_calibration_samples
    assert max(map(len, dataset["input_ids"])) == max_seq_length
    asked = {"input_ids": [list(ids) for ids in dataset["input_ids"]], "recipe": dict(recipe)}
    (Path(sys.argv[1]) / "asked.json").write_text(json.dumps(asked))
    if FAULT == "raises":
        raise OutOfMemoryError("no room\\nfor more")
    if FAULT == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    [group] = recipe["config_groups"].values()
    size = group["weights"]["group_size"]
    tensors = {name: values.clone() for name, values in model.state_dict().items()}
    for name, part in model.named_modules():
        skipped = name in recipe["ignore"] or (FAULT == "skips" and name == "model.layers.0.mlp.up_proj")
        if not isinstance(part, torch.nn.Linear) or skipped:
            continue
        values = tensors.pop(f"{name}.weight")
        groups = values.reshape(values.shape[0], -1, size)
        if FAULT == "reverses":
            groups = values.flip(1).reshape(groups.shape)
        scale = (groups.abs().amax(-1) / 7.5).clamp(min=1e-9)
        numbers = (groups / scale[..., None]).round().clamp(-8, 7).to(torch.int8).reshape(values.shape)
        tensors[f"{name}.weight_packed"] = pack_to_int32(numbers, 4)
        tensors[f"{name}.weight_scale"] = scale
        tensors[f"{name}.weight_shape"] = torch.tensor(values.shape)
    if FAULT == "changes":
        tensors["model.norm.weight"] += 1
    shared = {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed"}
    told = {**shared, "ignore": recipe["ignore"], "config_groups": recipe["config_groups"]}

    def save_pretrained(folder, save_compressed):
        assert save_compressed
        Path(folder).mkdir()
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps({"quantization_config": told}))

    model.save_pretrained = save_pretrained
"""
