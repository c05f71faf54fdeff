"""Owns compiled layers (`training.compile: regional`): each repeated layer of a model by `torch.compile`, by itself.

What lies around a layer stays as it is: FSDP2's hooks, what decides whether a layer is computed again, the embedding,
the output layer and the loss. Attention is left out inside it, too, because it takes the samples of a packed row one by
one, so that a layer is two compiled parts with attention between them. Shapes are symbols, or each minibatch's number
of tokens would be compiled anew. Layers of one kind share what was compiled.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import COMPILED
from sft.errors import StageError
from sft.files import write_json

LARGEST_NUM_VERSIONS = 16
"""How often a function is compiled at most: for kinds of layers, training and scoring, one sample in a minibatch."""
_ATTENTION = "attention is computed as without compiling"
_INSTEAD = "set training.compile=none"


@dataclass
class Report:
    """What was compiled in this rank.

    Attributes:
        seconds: How long that took.
        num_graphs: Compiled parts.
        breaks: Why a part ended where it did and how often, but for attention.
    """

    seconds: float = 0.0
    num_graphs: int = 0
    breaks: dict[str, int] = field(default_factory=dict)


class Stopwatch:
    """Adds up how long torch compiles, which it does when a layer first sees something new."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def start(self, _: Any) -> None:
        """Begin to measure."""
        self._began = time.perf_counter()

    def stop(self, _: Any) -> None:
        """Add what was measured."""
        self.seconds += time.perf_counter() - self._began


_STOPWATCH = Stopwatch()


@contextmanager
def compiling() -> Iterator[None]:
    """Let torch refuse to give up on compiling in silence, and measure how long it compiles, until the block ends.

    Raises:
        StageError: A layer has to be compiled again and again, or can't be compiled.
    """
    import torch
    from torch._dynamo import callback, exc

    handler, limit = callback.callback_handler, LARGEST_NUM_VERSIONS
    handler.register_start_callback(_STOPWATCH.start)
    handler.register_end_callback(_STOPWATCH.stop)
    try:
        with torch._dynamo.config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
            yield
    except exc.FailOnRecompileLimitHit as error:
        rule = f"training.compile=regional: the model's layers need more than {limit} compiled versions: {error}"
        raise StageError(rule, fix=_INSTEAD) from error
    except exc.TorchDynamoException as error:
        rule = f"training.compile=regional: the model's layers can't be compiled: {error}"
        raise StageError(rule, fix=f"{_INSTEAD}, or give the machine what is missing") from error
    finally:
        handler.remove_start_callback(_STOPWATCH.start)
        handler.remove_end_callback(_STOPWATCH.stop)


def report() -> Report:
    """Return what was compiled so far."""
    from torch._dynamo.utils import counters

    breaks = {why.splitlines()[0] + _where(why): num for why, num in counters["graph_break"].items()}
    own = {why for why in breaks if _ATTENTION in why}
    return Report(
        seconds=_STOPWATCH.seconds,
        num_graphs=counters["stats"]["unique_graphs"],
        breaks={why: num for why, num in breaks.items() if why not in own},
    )


def _where(why: str) -> str:
    """Return what torch says of the place of a break, from the message in which it explains it."""
    told = [line.partition(":")[2].strip() for line in why.splitlines() if "Explanation:" in line]
    return f": {told[0]}" if told else ""


class Notes:
    """Writes what was compiled, for the parent process.

    Args:
        folder: Where; None = nothing is compiled.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seconds = 0.0

    def of_step(self, *, is_main: bool) -> dict[str, float]:
        """Return how long torch has compiled since the last call, for a row of the metrics, if it has at all.

        Args:
            is_main: Whether this is rank 0, which writes the note.
        """
        if self._folder is None:
            return {}
        told = report()
        seconds, self._seconds = told.seconds - self._seconds, told.seconds
        if not seconds:
            return {}
        if is_main:
            write_json(self._folder / COMPILED, asdict(told))
        return {"compile_seconds": seconds}


def compile_layers(model: Any, layers: list[Any]) -> None:
    """Make each of `layers` compile its forward pass, and the backward pass of that, when it is first called.

    Names and weights stay what they are, so that full states and models are those of a model that is not compiled.

    Args:
        model: A `PreTrainedModel`, maybe inside PEFT's, before it is sharded.
        layers: Its repeated layers; one inside another is compiled with it.

    Raises:
        StageError: There is none.
    """
    if not layers:
        rule = f"training.compile=regional: {type(model).__name__} names no layers (_no_split_modules)"
        raise StageError(rule, fix=_INSTEAD)
    _leave_attention_out(model)
    inner = {part for layer in layers for part in layer.modules() if part is not layer}
    for layer in layers:
        if layer not in inner:
            _compile(layer)


def _compile(layer: Any) -> None:
    """Compile what a layer of transformers computes, beneath what computes it again: torch doesn't trace that.

    (transformers modeling_layers.py:88@5.23, torch utils/checkpoint.py: `checkpoint` is one of torch's functions
    in which nothing is compiled.)
    """
    import torch

    recomputes = getattr(layer, "gradient_checkpointing", False)
    layer.gradient_checkpointing = False
    compiled = torch.compile(layer.forward, dynamic=True)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if recomputes and layer.training:
            return layer._gradient_checkpointing_func(functools.partial(compiled, **kwargs), *args)
        return compiled(*args, **kwargs)

    layer.forward = forward


def _leave_attention_out(model: Any) -> None:
    import torch
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for name in sorted({part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}):
        attend: Callable[..., Any] | None = ALL_ATTENTION_FUNCTIONS.get(name)
        if attend is not None and not getattr(attend, "_torchdynamo_disable", False):
            AttentionInterface.register(name, torch.compiler.disable(attend, reason=_ATTENTION))
