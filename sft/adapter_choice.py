"""Which matrices of a model get adapters, of which rank, by their names. Pure: the plan and the ranks ask it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sft.parameter_choice import layer_of

SETTING = "training.lora"
BASE_CHANGING = ("olora", "pissa", "pissa_niter_4", "pissa_niter_16")
"""Ways to begin that take what the adapter begins with out of the base weights."""
UNQUANTIZED = "none"
"""`quantize` of a base whose weights are kept as they are stored."""
_FOR_EXPERTS = ("default", "gaussian")


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A weight that can be adapted.

    Attributes:
        inputs: Features that it takes.
        outputs: Features that it gives.
        experts: Of a tensor that holds a matrix for each expert, how many; 0 = it is a layer of its own.
    """

    inputs: int
    outputs: int
    experts: int = 0


class Adapter(NamedTuple):
    """Rank and alpha of the adapter of a matrix; of experts, of each."""

    rank: int
    alpha: float


def matches(name: str, ending: str) -> bool:
    """Return whether a dotted name ends with whole parts: ``a.q_proj`` with ``q_proj``, and not with ``proj``."""
    return name == ending or name.endswith(f".{ending}")


def adapters_of(lora: Mapping[str, Any], matrices: Mapping[str, Matrix]) -> dict[str, Adapter]:
    """Return the adapter of each matrix that gets one.

    Args:
        lora: `training.lora` as plain data.
        matrices: All that can be adapted: those of linear layers but the head, and of fused experts.
    """
    wanted, layers = lora["target_modules"], lora["layers"]
    return {
        name: Adapter(_by_pattern(name, lora["rank_pattern"], lora["rank"]), _alpha(name, lora))
        for name in matrices
        if (wanted is None or any(matches(name, ending) for ending in wanted))
        and (layers is None or layer_of(name) in layers)
    }


def _alpha(name: str, lora: Mapping[str, Any]) -> float:
    return float(_by_pattern(name, lora["alpha_pattern"], lora["alpha"]))


def _by_pattern(name: str, patterns: Mapping[str, int], otherwise: int) -> int:
    return next((value for ending, value in patterns.items() if matches(name, ending)), otherwise)


def num_parameters(lora: Mapping[str, Any], matrices: Mapping[str, Matrix]) -> int:
    """Return the parameters of the adapters: two matrices for each, and with DoRA a magnitude for each output."""
    return sum(
        adapter.rank * max(matrices[name].experts, 1) * (matrices[name].inputs + matrices[name].outputs)
        + (matrices[name].outputs if lora["use_dora"] else 0)
        for name, adapter in adapters_of(lora, matrices).items()
    )


def saved_whole(lora: Mapping[str, Any], modules: Collection[str]) -> set[str]:
    """Return which of some modules `training.lora.modules_to_save` trains whole."""
    return {name for name in modules if any(matches(name, each) for each in lora["modules_to_save"])}


def problem(
    lora: Mapping[str, Any],
    matrices: Mapping[str, Matrix],
    modules: Collection[str] | None,
    tied: Collection[str] = (),
    *,
    fsdp_version: int = 2,
    compiles: bool = False,
) -> tuple[str, str] | None:
    """Return why adapters can't be of a model as a recipe says, and what to do; None if they can.

    Args:
        lora: `training.lora` as plain data.
        matrices: All that can be adapted.
        modules: Names of the model's modules with weights; None = not known.
        tied: Those of them that share a weight with another.
        fsdp_version: Of the FSDP that shards them.
        compiles: Whether layers are compiled.
    """
    fused = sorted({name.rpartition(".")[2] for name, matrix in matrices.items() if matrix.experts})
    if fused and lora["quantize"] != UNQUANTIZED:
        rule = f"the model's experts ({', '.join(fused)}) are no linear layers and can't be kept in 4 bits"
        return f"{SETTING}.quantize={lora['quantize']}: {rule}", f"{SETTING}.quantize={UNQUANTIZED}"
    has_experts = any(matrices[name].experts for name in adapters_of(lora, matrices))
    if has_experts and compiles:
        rule = "the model's experts are one tensor, which peft replaces while a layer runs: that can't be compiled"
        return f"{SETTING}: {rule}", "training.compile=none, or name other layers in training.lora.target_modules"
    if has_experts and fsdp_version == 1:
        rule = "the model's experts are one tensor, of which FSDP1 has a view that can't be replaced for a while"
        return f"{SETTING}: {rule}", "training.fsdp.version=2, or name other layers in training.lora.target_modules"
    return next(_problems(lora, matrices, modules, tied), None)


def _problems(
    lora: Mapping[str, Any], matrices: Mapping[str, Matrix], modules: Collection[str] | None, tied: Collection[str]
) -> Iterator[tuple[str, str]]:
    kinds = ", ".join(sorted({name.rpartition(".")[2] for name in matrices}))
    if missing := _unmatched(lora["target_modules"] or (), matrices):
        yield (
            f"{SETTING}.target_modules: the model has no {', '.join(missing)} to adapt",
            f"choose from {kinds}, or null for all of them",
        )
    last = max((layer for name in matrices if (layer := layer_of(name)) is not None), default=-1)
    if beyond := [layer for layer in lora["layers"] or () if layer > last]:
        yield f"{SETTING}.layers: the model has no layer {beyond[0]}; its last one is {last}", "name those that it has"
    adapted = adapters_of(lora, matrices)
    if not adapted:
        yield f"{SETTING}.target_modules and layers: no layer is left to adapt", f"choose from {kinds}"
    for setting in ("rank_pattern", "alpha_pattern"):
        if missing := _unmatched(lora[setting], adapted):
            yield f"{SETTING}.{setting}: {missing[0]} is the end of no adapted layer's name", f"choose from {kinds}"
    yield from _shape_problems(lora, matrices, adapted)
    if modules is None:
        return
    if missing := _unmatched(lora["modules_to_save"], modules):
        ends = sorted({name.rpartition(".")[2] for name in modules} - {name.rpartition(".")[2] for name in matrices})
        yield f"{SETTING}.modules_to_save: the model has no {missing[0]}", f"choose from {', '.join(ends)}"
    whole = saved_whole(lora, modules)
    if both := sorted(whole & {*adapted}):
        yield f"{SETTING}.modules_to_save: {both[0]} is adapted already", "name it in one of the two settings"
    if shared := sorted(whole & {*tied}):
        rule = f"{shared[0]} shares its weights with another module (tie_word_embeddings), from which a copy would part"
        yield f"{SETTING}.modules_to_save: {rule}", "leave it out, or train every weight: training.lora.rank=0"


def _unmatched(endings: Collection[str], names: Collection[str]) -> list[str]:
    return sorted(ending for ending in endings if not any(matches(name, ending) for name in names))


def _shape_problems(
    lora: Mapping[str, Any], matrices: Mapping[str, Matrix], adapted: Mapping[str, Adapter]
) -> Iterator[tuple[str, str]]:
    experts = sorted(name for name in adapted if matrices[name].experts)
    others = ", ".join(sorted({name.rpartition(".")[2] for name in adapted if not matrices[name].experts}))
    instead = f"or leave {experts[0].rpartition('.')[2]} out: {SETTING}.target_modules=[{others}]" if experts else ""
    if experts and lora["dropout"]:
        rule = "the model's experts are one tensor, whose adapters have no dropout"
        yield f"{SETTING}.dropout={lora['dropout']}: {rule}", f"{SETTING}.dropout=0, {instead}"
    if experts and lora["use_dora"]:
        rule = "the model's experts are one tensor, and peft has DoRA for layers"
        yield f"{SETTING}.use_dora: {rule}", f"{SETTING}.use_dora=false, {instead}"
    if experts and lora["init"] not in _FOR_EXPERTS:
        rule = f"the model's experts are one tensor, whose adapters begin as {' or '.join(_FOR_EXPERTS)}"
        yield f"{SETTING}.init={lora['init']}: {rule}", f"{SETTING}.init=default, {instead}"
    for name, adapter in adapted.items():
        matrix = matrices[name]
        if lora["init"] in BASE_CHANGING and adapter.rank > (narrow := min(matrix.inputs, matrix.outputs)):
            rule = f"{name} has only {narrow} directions, so that {lora['init']} has none for rank {adapter.rank}"
            yield f"{SETTING}.rank: {rule}", "a lower rank, or training.lora.init=default"
        if lora["init"] == "orthogonal" and adapter.rank % 2:
            yield f"{SETTING}.init=orthogonal: needs an even rank, not {adapter.rank} as of {name}", "an even one"
