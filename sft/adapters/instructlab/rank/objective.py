"""Owns what is minimised besides or in the place of plain cross-entropy, each with its gradient over the logits.

Of a token with logits l, probabilities p, log-normaliser Z = log(sum(exp(l))) and target y:

- label smoothing by e over V words (arXiv:1512.00567, section 7): ``-(1 - e) log p_y - e / V sum(log p)``
- z-loss by c (PaLM, arXiv:2204.02311, section 5): ``c Z²``, added
- dynamic fine-tuning (arXiv:2508.05629, equation 9): ``-p_y log p_y`` with ``p_y`` as a constant
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sft.adapters.instructlab.rank import loss
from sft.adapters.instructlab.rank.by_source import BY_SOURCE
from sft.adapters.instructlab.rank.minibatches import NO_TARGET
from sft.adapters.instructlab.settings import WorkerOptions


def losses_of(options: WorkerOptions) -> Callable[[Any, Any], Any] | None:
    """Return what takes the place of `loss.loss_over_logits` in training; None where plain cross-entropy does."""
    if options.loss == "cross_entropy" and not options.label_smoothing and not options.z_loss:
        return None
    return Objective(
        label_smoothing=options.label_smoothing, z_loss=options.z_loss, is_dynamic=options.loss == "dft"
    ).over_logits


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A sum of losses of tokens.

    Attributes:
        label_smoothing: ``e`` above.
        z_loss: ``c`` above.
        is_dynamic: Whether each token's cross-entropy is weighted by its probability.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    is_dynamic: bool = False

    def over_logits(self, logits: Any, targets: Any) -> Any:
        """Return the sum of the losses, and overwrite the logits with its gradient, as `loss.loss_over_logits` does.

        Args:
            logits: In fp32, of shape (places, vocabulary).
            targets: Of shape (places,); those that are `NO_TARGET` don't count.
        """
        num_places, vocabulary = logits.shape
        at_a_time = max(1, loss.AT_A_TIME // vocabulary) if logits.device.type == "cpu" else num_places
        summed, smoothing = logits.new_zeros(()), self.label_smoothing
        for part, target in zip(logits.split(at_a_time), targets.split(at_a_time), strict=True):
            counts = (target != NO_TARGET).to(part.dtype).unsqueeze(1)
            wanted = target.clamp(min=0).unsqueeze(1)
            largest = part.amax(1, keepdim=True)
            part -= largest
            of_wanted, mean = part.gather(1, wanted), part.mean(1, keepdim=True)
            over_all = part.exp_().sum(1, keepdim=True)
            normaliser = over_all.log()
            weights = (of_wanted - normaliser).exp() * counts if self.is_dynamic else counts
            entropies = normaliser - (1 - smoothing) * of_wanted - smoothing * mean
            log_z = normaliser + largest
            of_tokens = weights * entropies + counts * self.z_loss * log_z.square()
            summed += of_tokens.sum()
            BY_SOURCE.add(of_tokens)
            part.mul_((weights + counts * 2 * self.z_loss * log_z) / over_all)
            if smoothing:
                part.sub_(weights * (smoothing / vocabulary))
            part.scatter_add_(1, wanted, -(1 - smoothing) * weights)
        return summed
