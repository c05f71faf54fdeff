"""Owns the loss, computed only at the positions that count.

`Model.compute_loss` (model.py:493@0.16.2) passes the labels to the model, which computes a loss that nobody reads, and
then takes the logits of every token, padding included, although only labelled ones enter the loss. Here the output
layer sees only the positions that predict a labelled token. That needs less memory (a token's logits in fp32 are four
times the vocabulary in bytes) and less work for the same loss and gradients. The gradient overwrites the logits, where
torch keeps the log-softmax and makes two more tensors of that size.

A minibatch is padded on the right only, which no token of a causal model sees. So its mask changes nothing but makes
attention slower, because torch's fastest kernels take none.

It can be removed when upstream does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partialmethod
from typing import Any

from sft.adapters.instructlab.rank import by_source, chunked_head, noise, varlen
from sft.adapters.instructlab.rank.by_source import BY_SOURCE
from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.rank.copies import to_device
from sft.adapters.instructlab.rank.minibatches import NO_TARGET, Minibatch
from sft.adapters.patched import patched
from sft.errors import StageError

Losses = Callable[[Any, Any], Any]
"""Returns the sum of the losses of logits and targets, and overwrites the logits with its gradient."""
AT_A_TIME = 2**18
"""Logits that a CPU processes at a time: as many as its cache holds."""
PLACES = 128
"""The number of rows of logits is a multiple of this, for the reasons of `minibatches.LENGTHS`."""


@contextmanager
def patched_loss(losses: Losses | None = None) -> Iterator[None]:
    """Replace the library's loss, in training and in validation, until the block ends.

    Args:
        losses: What is trained in the place of `loss_over_logits`; validation stays plain cross-entropy.
    """
    from instructlab.training import main_ds, model

    manager = main_ds.BatchLossManager
    with patched(
        (manager, "_prepare_model_inputs", lambda self, minibatch: inputs(minibatch, self.model, self.torch_device)),
        (model.Model, "compute_loss", partialmethod(compute_loss, losses=losses)),
        (main_ds, "compute_validation_loss", validation_loss),
    ):
        yield


def inputs(minibatch: Minibatch, model: Any, device: Any) -> Minibatch:
    """Return the arguments of `compute_loss`, on `device`.

    Args:
        minibatch: With ``input_ids`` and ``labels`` of shape (samples, tokens) on the CPU, where the positions are
            found without waiting for a device. As `minibatches` collates it.
        model: The library's model.
        device: Device of the model.

    Returns:
        ``input_ids``; of a packed row the positions and bounds of its samples under transformers' names; ``places``:
        the positions in the flattened minibatch whose logits enter the loss, and ``targets``: the tokens that they
        predict. Those two are padded with positions that have no target. Of a row that ranks share all but the bounds
        are those of this rank's stretch.
    """
    import torch

    targets = torch.nn.functional.pad(minibatch["labels"][:, 1:], (0, 1), value=NO_TARGET)
    targets = SHARE.stretch(targets).flatten()  # the first token of a stretch is what the one before it predicts
    (places,) = torch.nonzero(targets != NO_TARGET, as_tuple=True)
    num_padding = max(PLACES, -(-len(places) // PLACES) * PLACES) - len(places)
    arguments = {
        "input_ids": SHARE.stretch(minibatch["input_ids"]),
        "places": torch.nn.functional.pad(places, (0, num_padding)),
        "targets": torch.nn.functional.pad(targets[places], (0, num_padding), value=NO_TARGET),
    }
    noise.LENGTHS.note(minibatch, device)
    BY_SOURCE.note(minibatch, places, num_padding, device)
    longest: dict[str, int] = {}
    if "sample_lengths" in minibatch:
        lengths = minibatch["sample_lengths"]
        varlen.STATE.lengths = lengths
        arguments["position_ids"] = SHARE.stretch(minibatch["position_ids"])
        arguments |= {name: minibatch[name] for name in ("cu_seq_lens_q", "cu_seq_lens_k")}
        longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    elif getattr(model.config, "output_router_logits", False):  # a router's loss counts all unmasked tokens
        arguments["attention_mask"] = minibatch["attention_mask"]
    return {**longest, **{name: to_device(value, device) for name, value in arguments.items()}}


def compute_loss(
    model: Any, arguments: Minibatch, world_size: int, num_counted: int, losses: Losses | None = None
) -> tuple[Any, Any]:
    """Replace `Model.compute_loss`.

    Args:
        model: The library's model.
        arguments: Those that `inputs` returned.
        world_size: Number of ranks, over whose gradients FSDP takes the mean.
        num_counted: Loss tokens of the whole batch, over all its minibatches and ranks.
        losses: None = `loss_over_logits`.

    Returns:
        The loss for the backward pass, ``sum of the losses x world_size / num_counted``, and the library's
        `ModelLosses` with the sum.

    Raises:
        StageError: The model does not compute its logits by one call of its output layer.
    """
    from instructlab.training.type_definitions import ModelLosses

    places, targets = arguments["places"], arguments["targets"]

    def keep_places(_head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flatten(0, -2).index_select(0, places).unsqueeze(0), *args[1:])

    model_inputs = {name: value for name, value in arguments.items() if name not in ("places", "targets")}
    if chunked_head.divides(model, len(targets)):
        output = chunked_head.forward(model, model_inputs, places, targets, losses or loss_over_logits)
        summed = output.logits.reshape(())
    else:
        with model.get_output_embeddings().register_forward_pre_hook(keep_places):
            output = model(**model_inputs, use_cache=False)
        logits = output.logits.flatten(0, -2)
        if len(logits) != len(targets):
            architecture = type(model.module).__name__
            rule = f"{architecture}: its logits don't come from one call of its output layer, which the loss needs"
            raise StageError(rule, fix="use a model of another architecture")
        summed = cross_entropy()(logits.float(), targets, losses)
    scaled, router = summed * world_size / num_counted, None
    if model.is_gpt_oss or model.is_granitemoehybrid:  # those whose routers upstream trains
        router = getattr(output, "aux_loss", None)
    if router is not None:
        router = router.float()
        scaled = scaled + router
    return scaled, ModelLosses(main_loss=summed, aux_loss=router)


def loss_over_logits(logits: Any, targets: Any) -> Any:
    """Return the sum of the cross-entropies, and overwrite the logits with its gradient.

    Args:
        logits: In fp32, of shape (places, vocabulary).
        targets: Of shape (places,); those that are `NO_TARGET` don't count.
    """
    num_places, vocabulary = logits.shape
    at_a_time = max(1, AT_A_TIME // vocabulary) if logits.device.type == "cpu" else num_places
    summed = logits.new_zeros(())
    for part, target in zip(logits.split(at_a_time), targets.split(at_a_time), strict=True):
        counts = (target != NO_TARGET).to(part.dtype).unsqueeze(1)
        wanted = target.clamp(min=0).unsqueeze(1)
        part -= part.amax(1, keepdim=True)
        of_wanted = part.gather(1, wanted)
        over_all = part.exp_().sum(1, keepdim=True)
        of_tokens = (over_all.log() - of_wanted) * counts
        summed += of_tokens.sum()
        BY_SOURCE.add(of_tokens)
        part.mul_(counts / over_all).scatter_add_(1, wanted, -counts)
    return summed


@cache
def cross_entropy() -> Callable[..., Any]:
    """Return a function like `torch.nn.functional.cross_entropy` with a sum, which overwrites the logits.

    It takes logits of shape (places, vocabulary) in fp32 and targets of shape (places,), some of which may be
    `NO_TARGET`; and, in the place of `loss_over_logits`, other losses. If the backward pass needs the logits again,
    autograd refuses that.
    """
    import torch

    class CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any, losses: Losses) -> Any:
            ctx.gradient = logits
            return losses(logits, targets)

        @staticmethod
        def backward(ctx: Any, outer: Any) -> Any:
            gradient, ctx.gradient = ctx.gradient, None
            return gradient.mul_(outer), None, None

    def apply(logits: Any, targets: Any, losses: Losses | None = None) -> Any:
        return CrossEntropy.apply(logits, targets, losses or loss_over_logits)

    return apply


def validation_loss(model: Any, loader: Any, device: Any) -> dict[str, Any]:
    """Replace `compute_validation_loss` (main_ds.py:95@0.16.2), whose result is too small by the world size (trap 3).

    Args:
        model: The library's model; it is in training mode afterwards.
        loader: Yields batches, each a rank's list of minibatches.
        device: Device of the model.

    Returns:
        ``val_loss``, the mean over the loss tokens of all ranks, and ``val_num_tokens``, their number; and the same by
        source, as `by_source.means` names it.
    """
    totals = summed_losses(model, loader, device)
    of_sources = by_source.means(totals[2:].tolist(), BY_SOURCE.names, "validation_loss")
    return {"val_loss": (totals[0] / totals[1]).item(), "val_num_tokens": int(totals[1]), **of_sources}


def summed_losses(model: Any, loader: Any, device: Any) -> Any:
    """Return the sum of all ranks' cross-entropies, the number of tokens, and `by_source.BY_SOURCE.sums`, in fp64.

    Arguments as of `validation_loss`.
    """
    import torch
    import torch.distributed as dist

    totals = torch.zeros(2, dtype=torch.float64, device=device)
    BY_SOURCE.begin(device)
    model.eval()
    with torch.no_grad():
        for batch in loader:
            for minibatch in batch:
                _, losses = compute_loss(model, inputs(minibatch, model, device), 1, 1)
                totals[0] += losses.main_loss
                totals[1] += minibatch["num_loss_counted_tokens"] if SHARE.counts else 0
    totals = torch.cat([totals, BY_SOURCE.sums])
    dist.all_reduce(totals)
    model.train()
    return totals
