"""Owns what a full state holds of a training, as flat names and tensors: weights, optimizer state, random states.

Names are those of the model's parameters, whatever it is sharded over, so that a state saved on some ranks loads on any
number of others. Weights that are not trained are left out: they come from the base model again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from typing import Any

from sft.errors import StageError

_WEIGHTS, _OPTIMIZER, _RANDOM = "weights.", "optimizer.", "random."


class StateTensors:
    """The tensors of a rank, which `restore` puts back after they were overwritten in place.

    Making them is a collective, and gives an optimizer that has made no step the state of one.

    Args:
        model: The model as FSDP wraps it, or as it is.
        optimizer: torch's own, not a wrapper's.

    Attributes:
        tensors: Tensor by name, each rank's own part of it where it is sharded.
        weights: Those of them that are weights, by the model's names.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        from torch.distributed.checkpoint import state_dict

        self._model, self._optimizer = model, optimizer
        # Without sharding FSDP has no sharded state. Nothing is offloaded: what is written passes through the host.
        self._options = state_dict.StateDictOptions(full_state_dict=_is_whole(model))
        self._weights, self._state = state_dict.get_state_dict(model, optimizer, options=self._options)
        trained = self._state["state"]
        self.weights = {name: self._weights[name] for name in _changing(model, self._weights, trained)}
        self.tensors = {
            **{f"{_WEIGHTS}{name}": weight for name, weight in self.weights.items()},
            **{f"{_OPTIMIZER}{name}.{kind}": value for name, kinds in trained.items() for kind, value in kinds.items()},
        }

    def restore(self) -> None:
        """Give model and optimizer what the tensors hold now."""
        from torch.distributed.checkpoint import state_dict

        state_dict.set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=self._weights,
            optim_state_dict=self._state,
            options=self._options,
        )


def _is_whole(model: Any) -> bool:
    """Return whether every rank has the whole model, which FSDP has then no sharded state of (NO_SHARD)."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    wrapped = FullyShardedDataParallel.fsdp_modules(model)
    return any(module.sharding_strategy is ShardingStrategy.NO_SHARD for module in wrapped)


def _changing(model: Any, weights: Mapping[str, Any], trained: Collection[str]) -> list[str]:
    """Return the names of weights and buffers that training may change."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return list(weights)
    buffers = {name.replace("_fsdp_wrapped_module.", "") for name, _ in model.named_buffers()}
    return [name for name in weights if name in trained or name in buffers]


def random_states(rank: int) -> dict[str, Any]:
    """Return the random states of this rank as a tensor of bytes, which hold JSON, under a name of its own."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state().numpy().tobytes().hex() if torch.cuda.is_available() else None,
    }
    return {random_name(rank): torch.frombuffer(bytearray(json.dumps(states).encode()), dtype=torch.uint8)}


def random_name(rank: int) -> str:
    """Return the name of a rank's random states."""
    return f"{_RANDOM}{rank}"


def restore_random_states(tensor: Any) -> None:
    """Continue the random numbers of the rank that saved `tensor`; on another device only those of the host."""
    import numpy as np
    import torch

    states = json.loads(tensor.numpy().tobytes())
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numbers, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(numbers, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(states["torch"]))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(states["cuda"]))


def _bytes(text: str) -> Any:
    import torch

    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def seed_new_rank(seed: int, rank: int, step: int) -> None:
    """Give a rank that the run had not when it saved random numbers of its own, the same ones each time."""
    import numpy as np
    import torch

    number = random.Random(f"{seed} {rank} {step}").getrandbits(32)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def check_names(wanted: Collection[str], saved: Collection[str]) -> None:
    """Refuse a state of another model: each tensor of this one has to be in it.

    Raises:
        StageError: One is missing.
    """
    if missing := sorted(set(wanted) - set(saved)):
        few = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise StageError(f"the full state has no {few}: it is of another model")
