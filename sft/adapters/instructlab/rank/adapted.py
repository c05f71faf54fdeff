"""Owns putting adapters into a model by PEFT, as `training.lora` says, and what they begin with.

PEFT's own ways to begin that change the base weights (`pissa`, `olora`) are applied layer by layer here, so that every
rank has rank 0's adapters and the weights that go with them: bits of a decomposition differ with the number of threads
and the machine, and a rank keeps only its part of an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sft.adapter_choice import BASE_CHANGING, UNQUANTIZED, Matrix, adapters_of, matches, problem, saved_whole
from sft.errors import StageError

NAME = "default"
_WRAPPERS = {"base_layer", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
_MAMBAS = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


def matrices_of(model: Any) -> dict[str, Matrix]:
    """Return what PEFT can adapt by its name: linear layers but the head, and tensors of fused experts."""
    head, closed = model.get_output_embeddings(), _closed(model)
    found = {}
    for name, module in model.named_modules():
        end = name.rpartition(".")[2]
        if end in closed or module is head:
            continue
        match type(module).__name__:  # a router may be made of a Linear, and give something else than a product
            case "Linear":
                found[name] = Matrix(inputs=module.in_features, outputs=module.out_features)
            case "Conv1D":  # GPT-2's, whose weight lies the other way round
                found[name] = Matrix(inputs=module.nx, outputs=module.nf)
            case _ if end == "experts":
                found |= {f"{name}.{own}": each for own, each in _fused(module).items()}
    return found


def _closed(model: Any) -> set[str]:
    """Return ends of names of linear layers that PEFT does not adapt.

    Kernels of Mamba's architectures read the weight of `out_proj` themselves (tuners_utils.py:152@0.21), and of the
    first ones that of `dt_proj`, too (transformers modeling_mamba.py), so that an adapter would be passed by. Where
    experts were layers once, PEFT takes the names of those for the tensors in which they are fused now, also of layers
    that have these names still, such as a shared expert's (transformers_weight_conversion.py:448@0.21).
    """
    from peft import LoraConfig

    reads_weights = getattr(model.config, "model_type", None) in _MAMBAS
    closed = {"out_proj", "dt_proj"} if reads_weights else set()
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # older ones have no such conversion
        return closed
    ends = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")}
    for end in sorted(ends):
        config = LoraConfig(target_modules=[end])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # it is fused with another one
            closed.add(end)
            continue
        closed |= {end} - {*config.target_modules}
    return closed


def _fused(module: Any) -> dict[str, Matrix]:
    """Return the tensors of a module that hold a matrix for each expert: (experts, outputs, inputs), or the reverse."""
    tensors = {name: tuple(each.shape) for name, each in module.named_parameters(recurse=False) if each.ndim == 3}
    if getattr(module, "is_transposed", False):
        return {name: Matrix(experts=of, inputs=first, outputs=last) for name, (of, first, last) in tensors.items()}
    return {name: Matrix(experts=of, inputs=last, outputs=first) for name, (of, first, last) in tensors.items()}


def with_adapters(
    model: Any,
    lora: Mapping[str, Any],
    *,
    adapted_model: str,
    adapted_revision: str = "",
    fsdp_version: int = 2,
    compiles: bool = False,
) -> Any:
    """Return `model` within PEFT's, adapters in their places and nothing else trained.

    Args:
        model: A `PreTrainedModel`, whose weights `init` may change.
        lora: `training.lora` as plain data.
        adapted_model: Name of the base model in the adapter's configuration.
        adapted_revision: Its commit on the hub; empty for a folder.
        fsdp_version: Of the FSDP that will shard it.
        compiles: Whether its layers will be compiled.

    Raises:
        StageError: The model can't be adapted so.
    """
    from peft import get_peft_model

    matrices = matrices_of(model)
    modules = {name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))}
    if found := problem(lora, matrices, modules, _tied(model), fsdp_version=fsdp_version, compiles=compiles):
        raise StageError(found[0], fix=found[1])
    model.enable_input_require_grads()  # without it reentrant checkpointing drops the gradient
    config = peft_config(model, lora, matrices)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise StageError(f"training.lora: peft can't adapt {type(model).__name__} so: {error}") from error
    config.base_model_name_or_path, config.revision = adapted_model, adapted_revision or None
    _check(adapted, lora, matrices)
    if lora["init"] in BASE_CHANGING:
        _begin_with_directions(adapted, lora["init"])
    if lora["quantize"] != UNQUANTIZED:
        from sft.adapters.instructlab.rank.quantized import quantize_base

        quantize_base(adapted.get_base_model(), matrices, double_quant=lora["quantize"] == "nf4_double_quant")
    return adapted


def _tied(model: Any) -> set[str]:
    """Return the modules that hold a parameter of another one."""
    owners: dict[Any, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, set()).add(name.rpartition(".")[0])
    return {name for names in owners.values() if len(names) > 1 for name in names}


def peft_config(model: Any, lora: Mapping[str, Any], matrices: Mapping[str, Matrix]) -> Any:
    """Return PEFT's configuration, in the short form of names' ends where that means the same layers."""
    from peft import LoraConfig

    adapted = adapters_of(lora, matrices)
    layers = [name for name in adapted if not matrices[name].experts]
    fused = [name for name in adapted if matrices[name].experts]
    every = [name for name, _ in model.named_modules()]
    names = [name for name in matrices if matrices[name].experts]
    init = lora["init"]
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=_short(layers, every),
        target_parameters=_short(fused, names) or None,
        modules_to_save=_whole(lora, every) or None,
        rank_pattern=dict(lora["rank_pattern"]),
        alpha_pattern=dict(lora["alpha_pattern"]),
        use_rslora=lora["use_rslora"],
        use_dora=lora["use_dora"],
        init_lora_weights=init if init in ("gaussian", "orthogonal") else True,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _short(chosen: list[str], every: list[str]) -> list[str]:
    """Return the ends of `chosen` names, or the names where an end would mean others too."""
    ends = sorted({name.rpartition(".")[2] for name in chosen})
    meant = {name for name in every if any(matches(name, end) for end in ends)}
    return ends if meant == {*chosen} else sorted(chosen)


def _whole(lora: Mapping[str, Any], every: list[str]) -> list[str]:
    """Return modules to train whole, by names that mean no other ones to PEFT, for which ``layernorm`` ends in norm."""
    wanted, endings = saved_whole(lora, every), lora["modules_to_save"]
    meant = {name for name in every if name.endswith(tuple(endings))}
    return endings if meant == wanted else sorted(wanted)


def _check(adapted: Any, lora: Mapping[str, Any], matrices: Mapping[str, Matrix]) -> None:
    """Compare what PEFT has made with what the recipe says.

    Raises:
        StageError: They differ.
    """
    wanted = {
        name: (each.rank, each.alpha / (math.sqrt(each.rank) if lora["use_rslora"] else each.rank))
        for name, each in adapters_of(lora, matrices).items()
    }
    made = {name: (layer.r[NAME], layer.scaling[NAME]) for name, layer in adapter_layers(adapted).items()}
    if wanted != made:
        differing = sorted(name for name in {*wanted, *made} if wanted.get(name) != made.get(name))
        found, expected = made.get(differing[0]), wanted.get(differing[0])
        raise StageError(
            f"training.lora: peft adapts {differing[0]} with rank and scale {found}, not {expected}",
            fix="name its layers in training.lora.target_modules",
        )


def adapter_layers(adapted: Any) -> dict[str, Any]:
    """Return PEFT's layers by the name of what they adapt in the model."""
    from peft.tuners.lora.layer import LoraLayer

    found = {}
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
            own = getattr(module, "parameter_name", None)  # of a tensor of experts, which wrap one another
            found[f"{plain}.{own}" if own else plain] = module
    return found


def facts(adapted: Any) -> dict[str, Any]:
    """Return how much is trained, in how many adapters, and which modules with weights are left as they are."""
    from peft.utils.other import ModulesToSaveWrapper

    from sft.adapters.instructlab.rank.quantized import QuantizedLinear

    model = adapted.get_base_model()
    layers = adapter_layers(adapted)
    frozen = {
        name.replace(".base_layer", "").replace(".original_module", "")
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
        or any(not each.requires_grad for each in module.parameters(recurse=False))
    }
    covered = {*layers, *(name.rpartition(".")[0] for name in layers)}
    whole = {name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    left = sorted({name.rpartition(".")[2] for name in frozen - covered - whole})
    quantized = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    of_quantized = {"num_quantized": len(quantized), "quantized_bytes": sum(each.num_bytes for each in quantized)}
    return {
        **(of_quantized if quantized else {}),
        "num_trained": sum(each.numel() for each in adapted.parameters() if each.requires_grad),
        "num_adapters": len(layers),
        "adapted": sorted({name.rpartition(".")[2] for name in layers}),
        "saved_whole": sorted(whole),
        "not_adapted": left,
    }


def _begin_with_directions(adapted: Any, init: str) -> None:
    """Let adapters begin with directions of their weights, which are taken out of the weights: W' = W - s B A.

    Each layer keeps what it began with (`sft_began_with`, fp32 on the host): with it an adapter of W' becomes one of W.
    """
    import torch
    import torch.distributed as dist

    for name, layer in adapter_layers(adapted).items():
        if init == "olora" and layer.fan_in_fan_out:
            raise StageError(f"training.lora.init=olora: peft's can't begin with {name}, a Conv1D", fix="try pissa")
        weight = layer.get_base_layer().weight
        whole, stored = weight.data, weight.dtype
        weight.data = whole.to(torch.float32, copy=True)  # PEFT subtracts in place
        if init == "olora":
            layer.olora_init(NAME)
        else:
            layer.pissa_init(NAME, init)
        factors = [layer.lora_A[NAME].weight, layer.lora_B[NAME].weight]
        for factor in factors:
            factor.data = factor.data.float().contiguous()
            if dist.is_initialized():
                on_device = factor.data.cuda() if torch.cuda.is_available() else factor.data
                dist.broadcast(on_device, src=0)
                factor.data = on_device.to(whole.device)
        lora_a, lora_b = (factor.data for factor in factors)
        product = layer.scaling[NAME] * (lora_b @ lora_a)
        weight.data = (whole.float() - (product.T if layer.fan_in_fan_out else product)).to(stored)
        layer.sft_began_with = tuple(factor.detach().cpu().clone() for factor in (lora_a, lora_b))


def began_with(adapted: Any) -> dict[str, tuple[Any, Any]]:
    """Return the A and B that adapters began with and that are not in their weights; empty where those are whole."""
    layers = adapter_layers(adapted)
    return {name: layer.sft_began_with for name, layer in layers.items() if hasattr(layer, "sft_began_with")}
