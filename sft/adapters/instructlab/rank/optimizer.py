"""Owns which parameters are trained, at which rates, and by which optimizer.

Upstream (model.py:640@0.16.2) makes one AdamW of everything that takes a gradient, whose weight decay also pulls norms
and biases to 0. The replacements can be removed when its optimizer can be given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.patched import patched
from sft.errors import StageError
from sft.parameter_choice import choice_problem, frozen_names, matching, missing_layers

_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")


@contextmanager
def patched_optimizer(options: WorkerOptions) -> Iterator[None]:
    """Give the library's training these parameters and this optimizer until the block ends.

    Args:
        options: With the settings of optimizer, freezing and groups.

    Raises:
        StageError: A pattern matches no parameter, or none is trained.
    """
    from instructlab.training import main_ds, model

    finish = model.Model._post_model_init

    def freeze(self: Any) -> None:  # model.py:634, before the model is sharded
        finish(self)
        choose_trained(self.model, options)

    def setup_optimizer(model: Any, *, learning_rate: float, weight_decay: float, **rest: Any) -> Any:
        return optimizer_of(
            model.model, options, rate=learning_rate, decay=weight_decay, betas=rest["betas"], eps=rest["eps"]
        )

    with patched((model.Model, "_post_model_init", freeze), (main_ds, "setup_optimizer", setup_optimizer)):
        yield


def parameters_by_name(network: Any) -> dict[str, Any]:
    """Return a model's parameters by the names that transformers gives them."""
    found = {}
    for name, parameter in network.named_parameters():
        plain = name
        for wrapper in _WRAPPERS:
            plain = plain.replace(wrapper, "")
        found[plain] = parameter
    return found


def choose_trained(network: Any, options: WorkerOptions) -> None:
    """Freeze what `training.freeze` and `training.parameter_groups` name.

    Raises:
        StageError: A pattern matches no parameter, two groups match the same one, or none is trained.
    """
    parameters = parameters_by_name(network)
    if problem := missing_layers(options.freeze, options.parameter_groups, parameters):
        raise StageError(problem, fix="name the layers that it has")
    if not options.freeze and not any(group["freeze"] for group in options.parameter_groups.values()):
        return  # groups of adapters are checked once those are there
    aliases = _aliases(network, parameters)
    if problem := choice_problem(options.freeze, options.parameter_groups, {*parameters, *aliases}):
        raise StageError(problem, fix="name parameters as model.safetensors has them, with * for any text")
    for name in set().union(*frozen_names(options.freeze, options.parameter_groups, {*parameters, *aliases}).values()):
        parameters[aliases.get(name, name)].requires_grad_(requires_grad=False)


def _aliases(network: Any, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return other names of tied parameters, as of a head that is the embeddings: frozen by either name."""
    names = {parameter: name for name, parameter in parameters.items()}
    every = network.named_parameters(remove_duplicate=False)
    return {name: names[parameter] for name, parameter in every if name not in parameters and parameter in names}


def optimizer_of(
    network: Any, options: WorkerOptions, *, rate: float, decay: float, betas: tuple[float, float], eps: float
) -> Any:
    """Return the optimizer of a model that is sharded already.

    Args:
        network: The model, perhaps with adapters.
        options: With the settings of optimizer and groups.
        rate: `training.learning_rate`.
        decay: `training.weight_decay`.
        betas: `training.beta1` and `training.beta2`.
        eps: `training.adam_epsilon`.

    Raises:
        StageError: A group matches no parameter, or two match the same one.
    """
    import torch

    from sft.adapters.instructlab.rank import optimizers

    groups = _groups(network, options, rate, decay)
    match options.optimizer:
        case "adafactor":
            return optimizers.Adafactor(groups, rate, decay)
        case "lion":
            return optimizers.Lion(groups, rate, betas, decay)
        case "muon":
            return optimizers.MuonAndAdamW(groups, rate, betas, eps, decay)
        case _:
            # One kernel in the place of several a parameter (model.py:674).
            return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, weight_decay=decay, fused=True)


def _groups(network: Any, options: WorkerOptions, rate: float, decay: float) -> list[dict[str, Any]]:
    """Return torch's parameter groups, those at the training's own rate first: metrics show the first one's rate."""
    parameters = {name: each for name, each in parameters_by_name(network).items() if each.requires_grad}
    chosen = {name: group for name, group in options.parameter_groups.items() if not group["freeze"]}
    if problem := choice_problem((), chosen, parameters):
        raise StageError(f"{problem}, which are trained", fix="name parameters that are, with * for any text")
    of_name = {name: group for group in chosen.values() for name in matching(str(group["match"]), parameters)}
    outside = _outside_layers(network) if options.optimizer == "muon" else set()
    groups: dict[tuple[float, float, bool], list[Any]] = {}
    for name, parameter in parameters.items():
        own = of_name.get(name, {})
        own_rate = rate if own.get("learning_rate") is None else own["learning_rate"]
        own_decay = decay if own.get("weight_decay") is None else own["weight_decay"]
        if options.decays_matrices_only and parameter.ndim < 2:
            own_decay = 0.0
        uses_muon = options.optimizer == "muon" and parameter.ndim == 2 and parameter not in outside
        groups.setdefault((own_rate, own_decay, uses_muon), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: item[0][0] != rate)
    return [
        {"params": members, "lr": own_rate, "weight_decay": own_decay}
        | ({"uses_muon": uses_muon} if options.optimizer == "muon" else {})
        for (own_rate, own_decay, uses_muon), members in ordered
    ]


def _outside_layers(network: Any) -> set[Any]:
    """Return the weights of embeddings and head, whose rows are words and no directions."""
    ends = (network.get_input_embeddings(), network.get_output_embeddings())
    return {end.weight for end in ends if end is not None}
