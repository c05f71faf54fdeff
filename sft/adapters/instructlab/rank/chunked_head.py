"""Owns the output layer and the loss in one, a few thousand tokens at a time, so that few logits live at a time.

Logits are the largest tensors of a step: 4 bytes in fp32, and 2 more in bf16, for each token of the vocabulary. Here
each chunk's logits become their gradient, and that the gradients of the chunk's input and of the weight, before the
next chunk is computed: nothing is computed twice. The weight's gradient is added up in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from sft.errors import StageError

CHUNK = 4_096
"""Tokens whose logits live at a time; a minibatch with fewer of them for its loss is not divided."""
_CHANGES_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of architectures whose logits are not the output layer's: Gemma 2, Granite, Cohere."""


def divides(model: Any, num_places: int) -> bool:
    """Return whether the loss of a minibatch is taken in chunks: it is large, and the logits are a linear layer's.

    Args:
        model: The library's model.
        num_places: Tokens of the minibatch that have logits.
    """
    import torch

    changed = any(getattr(model.config, name, None) is not None for name in _CHANGES_LOGITS)
    return num_places > CHUNK and not changed and type(head_of(model)) is torch.nn.Linear


def forward(model: Any, inputs: dict[str, Any], places: Any, targets: Any, losses: Callable[..., Any]) -> Any:
    """Run the model, with the sum of the cross-entropies in the place of its logits.

    Args:
        model: The library's model.
        inputs: Its arguments.
        places: Positions in the flattened minibatch whose logits enter the loss.
        targets: What they predict, of shape (places,).
        losses: Returns the sum of cross-entropies of logits and targets, and overwrites the logits with its gradient.

    Returns:
        The model's output; its ``logits`` are the sum, of one element.

    Raises:
        StageError: The model changes what its output layer returns.
    """
    import torch

    chosen: list[Any] = []

    def choose(_head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        chosen.append(args[0].flatten(0, -2).index_select(0, places))
        return (args[0].flatten(0, -2)[:1], *args[1:])

    def replace(head: Any, _args: Any, _logits: Any) -> Any:
        summed = _function()(chosen.pop(), head.weight, head.bias, targets, losses, torch.is_grad_enabled())
        chosen.append(summed.reshape(1, 1, 1))
        return chosen[0]

    head = head_of(model)
    with head.register_forward_pre_hook(choose), head.register_forward_hook(replace):
        output = model(**inputs, use_cache=False)
    if output.logits is not chosen[0]:
        architecture = type(model.module).__name__
        rule = f"{architecture} changes the logits of its output layer, so that its loss can't be taken in chunks"
        raise StageError(rule, fix=f"set training.max_tokens_per_gpu to at most {CHUNK}")
    return output


def head_of(model: Any) -> Any:
    """Return the output layer that computes, which is a copy of the model's where it is trained beside adapters."""
    head = model.get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    return next(iter(copies.values())) if copies else head


@cache
def _function() -> Callable[..., Any]:
    import torch

    class ChunkedHead(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(
            ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, losses: Any, wants_gradients: bool
        ) -> Any:
            summed = torch.zeros((), dtype=torch.float32, device=hidden.device)
            of_hidden = torch.empty_like(hidden) if wants_gradients else None
            trained = [each is not None and each.requires_grad and wants_gradients for each in (weight, bias)]
            of_weight, of_bias = (
                torch.zeros_like(each, dtype=torch.float32) if is_trained else None
                for each, is_trained in zip((weight, bias), trained, strict=True)
            )
            for begin in range(0, len(hidden), CHUNK):
                part, target = hidden[begin : begin + CHUNK], targets[begin : begin + CHUNK]
                logits = torch.nn.functional.linear(part, weight, bias)
                computed_in, logits = logits.dtype, logits.float()
                summed += losses(logits, target)
                if of_hidden is None:
                    continue
                gradient = logits.to(computed_in)
                del logits
                of_hidden[begin : begin + CHUNK] = gradient @ weight.to(computed_in)
                if of_weight is not None and computed_in == torch.float32:
                    of_weight.addmm_(gradient.t(), part.float())
                elif of_weight is not None:
                    of_weight += gradient.t() @ part.to(computed_in)
                if of_bias is not None:
                    of_bias += gradient.float().sum(0)
                del gradient  # before the next chunk's logits are made
            ctx.gradients = of_hidden, of_weight, of_bias
            ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
            return summed

        @staticmethod
        def backward(ctx: Any, outer: Any) -> Any:
            (of_hidden, of_weight, of_bias), ctx.gradients = ctx.gradients, None
            of_weight, of_bias = (
                None if each is None else each.mul_(outer).to(dtype)
                for each, dtype in zip((of_weight, of_bias), ctx.dtypes, strict=True)
            )
            return of_hidden.mul_(outer), of_weight, of_bias, None, None, None

    return ChunkedHead.apply  # type: ignore[no-any-return]
