"""Owns linear layers whose frozen weights are in 4 bits: NF4 of QLoRA (arXiv:2305.14314, section 3), by bitsandbytes.

A layer's packed weights and scales are buffers, which FSDP neither shards nor casts, and which no state holds: each
rank has all of them, and makes them anew of the base at every start. They are widened to the type of the layer's input
for each product, forward and backward, and not kept between the two.

PEFT's and transformers' own quantised layers are not used: they hold packed weights as a parameter, which FSDP2 would
shard by rows that it has not, and the training library's 4 bits compute in fp16 (model.py:110@0.16.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sft.adapter_choice import Matrix
from sft.errors import StageError

BLOCK = 64
"""Weights, in the order of rows, that share a scale."""
SCALE_BLOCK = 256
"""Scales that share one of their own, where they are kept in 8 bits (`double_quant`)."""
_KIND = "nf4"


class QuantizedLinear(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear layer in 4 bits.

    Args:
        weight: Of shape (outputs, inputs), on the device where the packed one stays.
        bias: Of shape (outputs,), which stays as it is; None = none.
        double_quant: Whether scales are kept in 8 bits.
        transposed: Whether the layer that this one replaces has its weight the other way round.
    """

    def __init__(self, weight: Any, bias: Any, *, double_quant: bool, transposed: bool = False) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._stored, self._transposed, self._double_quant = weight.dtype, transposed, double_quant
        self.bias = bias
        packed, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=double_quant, quant_type=_KIND)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", state.absmax, persistent=False)
        if double_quant:
            self.register_buffer("offset", state.offset, persistent=False)
            self.register_buffer("scales_of_scales", state.state2.absmax, persistent=False)
            self.register_buffer("code_of_scales", state.state2.code, persistent=False)

    @property
    def weight(self) -> Any:
        """The widened weight, as PEFT reads it of the layer that this one replaces."""
        widened = self.widened(self._stored)
        return widened.T if self._transposed else widened

    @property
    def num_bytes(self) -> int:
        """Bytes of weights and scales."""
        return sum(each.nbytes for each in self.buffers(recurse=False))

    def widened(self, dtype: Any) -> Any:
        """Return the weight of shape (outputs, inputs) in a type of 16 or 32 bits."""
        from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise

        scales = self.scales
        if self._double_quant:
            of_scales = QuantState(
                absmax=self.scales_of_scales, code=self.code_of_scales, blocksize=SCALE_BLOCK, dtype=torch.float32
            )
            scales = dequantize_blockwise(scales, of_scales) + self.offset
        # As one row: with AVX-512, rows that are no whole number of blocks come out wrong (bitsandbytes 0.50.2).
        row = torch.Size((1, self.out_features * self.in_features))
        state = QuantState(absmax=scales, shape=row, dtype=dtype, blocksize=BLOCK, quant_type=_KIND)
        return dequantize_4bit(self.packed, state).reshape(self.out_features, self.in_features)

    def forward(self, inputs: Any) -> Any:
        """Return the products of inputs of shape (…, inputs): (…, outputs)."""
        return _Product.apply(inputs, self)


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """inputs W^T + bias, of which the backward pass widens W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, layer: QuantizedLinear) -> Any:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(inputs.dtype)
        return torch.nn.functional.linear(inputs, layer.widened(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient @ ctx.layer.widened(gradient.dtype), None


def quantize_base(model: Any, matrices: Mapping[str, Matrix], *, double_quant: bool) -> None:
    """Replace the linear layers of a model in place, those within adapters too, one after the other on the device.

    Args:
        model: A `PreTrainedModel` with PEFT's adapters in it, on the host.
        matrices: What of it can be adapted; all of it is quantised but what is trained whole.
        double_quant: Whether scales are kept in 8 bits.

    Raises:
        StageError: bitsandbytes is not installed, or can't compute on this device.
    """
    from peft.tuners.lora.layer import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    check_installed()
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    for name in matrices:
        parent, _, end = name.rpartition(".")
        owner, layer = model.get_submodule(parent), model.get_submodule(name)
        if isinstance(layer, ModulesToSaveWrapper):
            continue
        if isinstance(layer, LoraLayer):
            owner, end, layer = layer, "base_layer", layer.get_base_layer()
        transposed = type(layer).__name__ == "Conv1D"
        weight = layer.weight.detach()
        on_device = (weight.T if transposed else weight).to(weight.device if weight.is_meta else device).contiguous()
        made = QuantizedLinear(on_device, layer.bias, double_quant=double_quant, transposed=transposed)
        setattr(owner, end, made.train(layer.training))


def check_installed() -> None:
    """Refuse to go on without bitsandbytes: a pod's packages are seen only here.

    Raises:
        StageError: It can't be imported.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise StageError(
            f"training.lora.quantize: bitsandbytes can't be imported here: {error}",
            fix="pip install 'sft-runner[qlora]', or training.lora.quantize=none",
        ) from error
