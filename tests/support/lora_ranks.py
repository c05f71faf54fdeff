"""How adapters of every kind train on two ranks of FSDP: ``torchrun -m tests.support.lora_ranks FILE [NAME…]``.

Each is compared with the same adapters trained in one process, restored from a full state in the middle, and put back
on its base. Rank 0 writes what was found to FILE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from sft.adapters.instructlab.rank import fixes
from sft.adapters.instructlab.rank.adapted import with_adapters
from sft.adapters.instructlab.rank.lora import on_base
from sft.adapters.instructlab.rank.state_tensors import StateTensors
from sft.config.schema import BaseQuantization, LoraConfig, LoraInit
from sft.errors import StageError
from tests.support.architectures import VOCABULARY, tiny
from tests.support.sharding_ranks import backend, wrapped

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "layers": [1]},
    "dora": {"use_dora": True},
    "pissa": {"init": LoraInit.pissa},
    "olora": {"init": LoraInit.olora},
    "whole": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "experts": {},
    "nf4": {"quantize": BaseQuantization.nf4},
    "nf4_double_quant": {"quantize": BaseQuantization.nf4_double_quant, "modules_to_save": ["embed_tokens", "lm_head"]},
    "nf4_dora": {"quantize": BaseQuantization.nf4, "use_dora": True},
    "nf4_pissa": {"quantize": BaseQuantization.nf4, "init": LoraInit.pissa},
}
NUM_STEPS = 4


def made(name: str, version: int = 2) -> tuple[Any, Any]:
    """The model with adapters, and the same base without."""
    architecture = "mixtral" if name == "experts" else "llama"
    lora = LoraConfig(rank=4, alpha=6, dropout=0.0, **VARIANTS[name])
    network, base = tiny(architecture), tiny(architecture)
    torch.manual_seed(1)
    adapted = with_adapters(network, msgspec.to_builtins(lora), adapted_model="base", fsdp_version=version)
    adapted._no_split_modules = network._no_split_modules
    return adapted.train(), base


def loss(model: Any, step: int, rank: int) -> Any:
    """Of a minibatch of a rank."""
    random = torch.Generator().manual_seed(100 * step + rank)
    ids = torch.randint(3, VOCABULARY, (2, 12), generator=random)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def optimizer_of(model: Any) -> Any:
    return torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3, weight_decay=0.0)


def alone(name: str) -> tuple[Any, dict[str, Any]]:
    """Trained in this process, on the minibatches of both ranks."""
    model, _ = made(name)
    optimizer = optimizer_of(model)
    for step in range(NUM_STEPS):
        (sum(loss(model, step, rank) for rank in range(2)) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), {key: value.detach().clone() for key, value in model.state_dict().items()}


def trained(name: str, version: int) -> dict[str, Any]:
    """What is found of one kind of adapters with one FSDP."""
    expected_model, expected = alone(name)
    network, base = made(name, version)
    with backend("fp32", version=version), fixes.patched_library():
        model, accelerator = wrapped(network)
        optimizer = optimizer_of(model)

        def step(number: int) -> None:
            accelerator.backward(loss(model, number, dist.get_rank()))
            optimizer.step()
            optimizer.zero_grad()

        for number in range(NUM_STEPS // 2):
            step(number)
        state = StateTensors(model, optimizer)
        kept = {key: value.clone() if torch.is_tensor(value) else value for key, value in state.tensors.items()}
        for number in range(NUM_STEPS // 2, NUM_STEPS):
            step(number)
        first = accelerator.get_state_dict(model)
        again = StateTensors(model, optimizer)
        for key, value in again.tensors.items():
            if torch.is_tensor(value):
                value.copy_(kept[key])
        again.restore()
        for number in range(NUM_STEPS // 2, NUM_STEPS):
            step(number)
        second = accelerator.get_state_dict(model)
    if dist.get_rank():
        return {}
    buffers = {key.replace("_fsdp_wrapped_module.", ""): value for key, value in network.named_buffers()}
    packed = {key: value for key, value in buffers.items() if key.endswith(".packed")}
    alike = [torch.equal(value, packed[key]) for key, value in expected_model.named_buffers() if key in packed]
    if packed:  # whose merged model is another one: of the unquantised base
        expected_model = on_base(tiny("llama"), expected_model, expected).merge_and_unload().eval()
    whole = on_base(base, network, second).merge_and_unload().eval()
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        wanted, got = expected_model(input_ids=ids).logits, whole(input_ids=ids).logits
    frozen = [key for key in kept if key.startswith("weights.") and "lora_" not in key and "modules_to_save" not in key]
    return {
        "weights": max(float((expected[key] - value).abs().max()) for key, value in second.items()),
        "resumed": max(float((first[key] - value).abs().max()) for key, value in second.items()),
        "logits": float((wanted - got).abs().max()),
        "moved": max(float(value.abs().max()) for key, value in second.items() if "lora_B" in key),
        "frozen_in_the_state": len(frozen),
        "packed": [len(alike), sum(alike)],
    }


def main() -> None:
    """Train every kind with both versions of FSDP, and write what was found."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in sys.argv[2:] or VARIANTS:
        for version in (1, 2):
            try:
                results[f"{name}-{version}"] = trained(name, version)
            except StageError as error:  # on both ranks, before they wait for one another
                results[f"{name}-{version}"] = {"refused": str(error)}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=1), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
