"""Settings of `training.lora`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sft.config.schema.bounds import each, number, pairs, setting
from sft.config.schema.rules import Each, Number, Text
from sft.config.schema.texts import matches, not_empty

_MODULE = Text(
    not_empty,
    matches(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", "must be the end of a layer's name, such as q_proj or mlp.up_proj"),
)


class LoraInit(Enum):
    """What an adapter begins with. peft: `init_lora_weights`."""

    default = "default"
    gaussian = "gaussian"
    orthogonal = "orthogonal"
    olora = "olora"
    pissa = "pissa"
    pissa_niter_4 = "pissa_niter_4"
    pissa_niter_16 = "pissa_niter_16"


class BaseQuantization(Enum):
    """How the frozen weights beside adapters are kept."""

    none = "none"
    nf4 = "nf4"
    nf4_double_quant = "nf4_double_quant"


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters in the place of full fine-tuning. peft's `LoraConfig`."""

    rank: int = number(0, at_least=0, at_most=65_536)
    """Rank of the update; 0 = no adapters, every weight is trained. peft: `r`."""
    alpha: int = number(32, at_least=1, at_most=1_000_000)
    """The update is scaled by `alpha / rank`. peft: `lora_alpha`."""
    dropout: float = number(0.1, at_least=0, below=1)
    """Not for fused experts. peft: `lora_dropout`."""
    target_modules: list[str] | None = setting(None, Each(_MODULE))
    """Ends of the names of what is adapted (`q_proj`, `mlp.up_proj`, `experts.gate_up_proj`), in whole parts. null =
    every linear layer of the model but its head, and the tensors in which experts are fused (peft:
    `target_parameters`)."""
    layers: list[int] | None = setting(None, Each(Number(at_least=0, at_most=100_000)))
    """Numbers of the layers that are adapted, from 0; null = all of them. peft: `layers_to_transform`."""
    modules_to_save: list[str] = each(_MODULE)
    """Ends of the names of modules that are trained whole beside the adapters (`embed_tokens`, `lm_head`, `norm`)."""
    rank_pattern: dict[str, int] = pairs(_MODULE, Number(at_least=1, at_most=65_536))
    """Ranks that differ, by the end of a name: `{mlp.down_proj: 32}`. No layer may match two."""
    alpha_pattern: dict[str, int] = pairs(_MODULE, Number(at_least=1, at_most=1_000_000))
    """Alphas that differ, in the same way."""
    use_rslora: bool = False
    """Scale by `alpha / sqrt(rank)` (arXiv:2312.03732)."""
    use_dora: bool = False
    """DoRA (arXiv:2402.09353): the length of each output's weights is trained beside their direction. Slower."""
    init: LoraInit = LoraInit.default
    """`default` = random A, B of zeros (Kaiming); `gaussian` = the same from a normal distribution; `orthogonal` = both
    random, with a product of 0. `pissa` (arXiv:2404.02948) and `olora` (arXiv:2406.01775) begin with the largest
    directions of the weight and take them out of it: a singular value decomposition or QR of each layer at every start.
    `pissa_niter_4` and `_16` = approximately, far faster."""
    quantize: BaseQuantization = BaseQuantization.none
    """QLoRA (arXiv:2305.14314): `nf4` keeps the frozen weights of every linear layer but the head in 4 bits while
    adapters are trained (NF4, with a scale for each 64 weights: 4.5 bits), whole on each rank; `nf4_double_quant` keeps
    the scales in 8 bits, too (4.13 bits). The model that is saved has the unquantised weights. Needs bitsandbytes."""
