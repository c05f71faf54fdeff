"""Count the floating-point operations that a training step needs, from a model's shape alone. Pure arithmetic.

Model FLOPs as PaLM counts them (Chowdhery et al., arXiv:2204.02311, appendix B): what forward and backward pass need,
whatever is recomputed. Of each weight in a matrix product a token takes 2 operations forward, 2 for the gradient of its
input and 2 for the weight's own; a frozen weight has no such gradient, so that LoRA takes 4. Two things are counted
more narrowly than there and in torchtitan, so that the figure is lower and nothing in it is credited that need not be
done: a token looks only at those before it, half of its sample on average; and the head counts for the tokens that
enter the loss, the only ones whose logits are computed (`sft.adapters.instructlab.rank.loss`). Of MoE the experts
that a token is sent to count. Not counted: embeddings, norms, biases, RoPE, softmax, the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft.config.schema import LoraConfig
from sft.planning.adapters import num_active_parameters
from sft.planning.model_shape import Shape, shape_of


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """Operations of forward and backward pass.

    Attributes:
        per_token: Of each token without padding: the layers' matrix products.
        per_loss_token: Of each token that enters the loss: the head's.
        per_square: Of each squared length of a sample: attention.
    """

    per_token: float
    per_loss_token: float
    per_square: float

    def of(self, num_tokens: int, num_loss_tokens: int, num_squares: int) -> float:
        """Return the operations of a batch.

        Args:
            num_tokens: Its tokens, without padding.
            num_loss_tokens: Those that enter the loss.
            num_squares: The sum of the squared lengths of its samples.
        """
        return self.per_token * num_tokens + self.per_loss_token * num_loss_tokens + self.per_square * num_squares


def model_flops(shape: Shape, lora: LoraConfig | None = None) -> ModelFlops:
    """Return what a model takes.

    Args:
        shape: The model's.
        lora: Of its adapters; None, or of rank 0 = every weight is trained.
    """
    adapted = bool(lora and lora.rank)
    per_weight, of_head = (4, 6 if lora and _trains_head(lora) else 4) if adapted else (6, 6)
    projections = 2 * (shape.query_width + shape.key_width) + (3 if shape.family.gated else 2) * shape.ffn_width
    router = shape.num_experts * shape.hidden_size if shape.family.experts else 0
    per_layer = shape.hidden_size * projections + router
    adapters = num_active_parameters(lora, shape) if lora and adapted else 0
    return ModelFlops(
        per_token=per_weight * shape.num_layers * per_layer + 6 * adapters,
        per_loss_token=of_head * shape.vocab_size * shape.hidden_size,
        per_square=12 * shape.num_layers * shape.query_width / 2,
    )


def _trains_head(lora: LoraConfig) -> bool:
    return any(name.endswith("lm_head") for name in lora.modules_to_save)


def attention_cost(config: Mapping[str, Any], lora: LoraConfig | None = None) -> float:
    """Return what attention takes for a squared length, by what a layer's matrices take for a token.

    Where the shape is not known, ``1 / (12 * hidden_size)``, for a layer of ``12 * hidden_size ** 2`` weights
    (arXiv:2104.04473, appendix); 0 if not even that is known, so that tokens alone count.

    Args:
        config: The model's ``config.json``; empty if it is not known.
        lora: Of its adapters; None, or of rank 0 = every weight is trained.
    """
    if shape := shape_of(config):
        flops = model_flops(shape, lora)
        return flops.per_square / flops.per_token
    hidden = config.get("hidden_size")
    return 1 / (12 * hidden) if isinstance(hidden, int) and hidden > 0 else 0.0
