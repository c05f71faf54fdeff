"""Owns optimizers that torch lacks, or whose own do not run on parameters that FSDP2 has sharded (DTensor).

Each has torch's interface, and only tensors by parameter as its state, so that full states hold it like AdamW's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate

Groups = Iterable[dict[str, Any]]
_SMALLEST, _CLIP, _DECAY = 1e-30, 1.0, -0.8
MUON_MOMENTUM = 0.95


class Adafactor(torch.optim.Optimizer):  # type: ignore[misc]
    """Adafactor (arXiv:1804.04235) at an absolute learning rate, as transformers' without `scale_parameter`.

    torch's own fails on sharded matrices (`_adafactor.py:399@2.13`: an in-place square of a partial norm), and
    transformers' mixes them with plain tensors. A matrix has a mean square for each row and column alone.

    Args:
        groups: With ``params``, and maybe ``lr`` and ``weight_decay``.
        lr: Learning rate.
        weight_decay: Decoupled.
    """

    def __init__(self, groups: Groups, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # noqa: ARG002 - torch's interface
        """Make a step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in (each for each in group["params"] if each.grad is not None):
                state = self.state[parameter]
                _step_adafactor(parameter, state, group["lr"], group["weight_decay"])


def _step_adafactor(parameter: Any, state: dict[str, Any], lr: float, weight_decay: float) -> None:
    gradient = parameter.grad
    step = state["step"] = state.get("step", torch.zeros((), dtype=torch.float32)) + 1
    share = float(step) ** _DECAY
    squared = gradient.square() + _SMALLEST
    if gradient.dim() > 1:
        row = _averaged(state, "row", _replicated(squared.sum(-1) / squared.shape[-1]), share)
        column = _averaged(state, "column", _replicated(squared.sum(-2) / squared.shape[-2]), share)
        of_row = (row / row.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1)
        update = gradient * of_row * column.rsqrt().unsqueeze(-2)
    else:
        update = gradient * _averaged(state, "square", squared, share).rsqrt()
    size = (_whole(update.square().sum()) / update.numel()).sqrt()
    if weight_decay:
        parameter.mul_(1 - lr * weight_decay)
    parameter.sub_(update * (lr / max(1.0, float(size) / _CLIP)))


def _averaged(state: dict[str, Any], name: str, value: Any, share: float) -> Any:
    """Return the running mean of a state, of which `share` is the new value."""
    state[name] = value if name not in state else state[name] * (1 - share) + value * share
    return state[name]


def _replicated(value: Any) -> Any:
    """Return a DTensor that every rank has whole; anything else as it is."""
    return (
        value.redistribute(placements=[Replicate()] * value.device_mesh.ndim) if isinstance(value, DTensor) else value
    )


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _local(value: Any) -> Any:
    """Return this rank's part, in place."""
    return value.to_local() if isinstance(value, DTensor) else value


class Lion(torch.optim.Optimizer):  # type: ignore[misc]
    """Lion (arXiv:2302.06675, algorithm 2): the sign of a mean of gradient and momentum, one state a weight.

    Args:
        groups: With ``params``, and maybe ``lr`` and ``weight_decay``.
        lr: Learning rate; the paper's is 3 to 10 times below AdamW's.
        betas: Of the step's mean, and of the momentum's.
        weight_decay: Decoupled.
    """

    def __init__(self, groups: Groups, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # noqa: ARG002 - torch's interface
        """Make a step of every parameter that has a gradient."""
        for group in self.param_groups:
            (of_step, of_momentum), lr = group["betas"], group["lr"]
            for parameter in (each for each in group["params"] if each.grad is not None):
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                weight, gradient, momentum = map(_local, (parameter, parameter.grad, state["momentum"]))
                weight.mul_(1 - lr * group["weight_decay"])
                weight.sub_(momentum.lerp(gradient, 1 - of_step).sign_(), alpha=lr)
                momentum.lerp_(gradient, 1 - of_momentum)


class MuonAndAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """torch's Muon for the matrices of layers, its AdamW for embeddings, head, biases and norms; one learning rate.

    Muon's update is scaled to the size of AdamW's (arXiv:2502.16982, equation 4: ``match_rms_adamw``), so that one rate
    suits both. A sharded matrix is gathered for it by DTensor.

    Args:
        groups: With ``params``, ``uses_muon``, and maybe ``lr`` and ``weight_decay``.
        lr: Learning rate.
        betas: AdamW's; Muon's momentum is `MUON_MOMENTUM`.
        eps: AdamW's.
        weight_decay: Decoupled.
    """

    def __init__(
        self, groups: Groups, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        made = [dict(group) for group in groups]
        self._muon = torch.optim.Muon(
            [{**group} for group in made if group["uses_muon"]],
            lr=lr,
            weight_decay=weight_decay,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = [{**group} for group in made if not group["uses_muon"]] or [{"params": [torch.zeros(0)]}]
        self._adamw = torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "uses_muon": False}
        of_muon, of_adamw = iter(self._muon.param_groups), iter(self._adamw.param_groups)
        super().__init__([{**next(of_muon if group["uses_muon"] else of_adamw)} for group in made], defaults)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # noqa: ARG002 - torch's interface
        """Make a step of every parameter that has a gradient."""
        for part, uses_muon in ((self._muon, True), (self._adamw, False)):
            # Both work on this one's state, which loading a full state replaces.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["uses_muon"] is uses_muon]
            part.step()
