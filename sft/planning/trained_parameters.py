"""Which parameters of a model a training trains, as its checkpoint names them. Reads headers, and no weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from sft import adapter_choice
from sft.adapters import hub
from sft.adapters.checkpoint_files import INDEX, WEIGHTS, read_tensors
from sft.artifacts import Artifact, ModelArtifact
from sft.config.schema import AdapterUse, Compile, ModelSource, Optimizer, RunConfig, TrainingConfig
from sft.parameter_choice import (
    EMBEDDINGS,
    HEAD,
    choice_problem,
    frozen_names,
    layer_of,
    matching,
    missing_layers,
)
from sft.planning import adapters
from sft.planning.model_config import read_config, read_model_config
from sft.planning.model_shape import Shape, shape_of

_ADAMW_BYTES, _MOMENTUM_BYTES = 8.0, 4.0


def parameter_sizes(cfg: RunConfig, have: Mapping[str, Artifact]) -> dict[str, int] | None:
    """Return the elements of each tensor of the base model by its name; None if its files are not here.

    A head that is the embeddings, and so not in the files, has none.
    """
    folder = _folder(cfg, have)
    if folder is None or not ((folder / WEIGHTS).is_file() or (folder / INDEX).is_file()):
        return None
    sizes = {name: tensor.size for name, tensor in read_tensors(folder).items()}
    is_tied = (read_config(folder) or {}).get("tie_word_embeddings", False) and not matching(HEAD, sizes)
    return sizes | ({f"{HEAD}.weight": 0} if is_tied else {})


def _folder(cfg: RunConfig, have: Mapping[str, Artifact]) -> Path | None:
    made = have.get("model")
    if isinstance(made, ModelArtifact):
        return made.model_dir
    if cfg.model.source is ModelSource.scratch:
        return None
    folder = Path(cfg.model.name_or_path).expanduser()
    return folder if folder.is_dir() else hub.cached_model(cfg.model.name_or_path, cfg.model.revision)


def chooses(cfg: TrainingConfig) -> bool:
    """Return whether some parameters are not trained as the others are."""
    return bool(cfg.freeze or cfg.parameter_groups or (cfg.lora.rank and cfg.lora.modules_to_save))


def num_frozen(cfg: TrainingConfig, sizes: Mapping[str, int]) -> int:
    """Return how many parameters `training.freeze` and `training.parameter_groups` freeze."""
    return sum(sizes[name] for name in set().union(*_frozen(cfg, sizes).values()))


def _frozen(cfg: TrainingConfig, sizes: Mapping[str, int]) -> dict[str, set[str]]:
    """Return what is frozen by setting; freezing a head without weights of its own freezes the embeddings."""
    chosen = frozen_names(cfg.freeze, msgspec.to_builtins(cfg.parameter_groups), sizes)
    tied = [name for name, size in sizes.items() if not size]
    ends = matching("embeddings", sizes) if tied else set()
    return {setting: names | (ends if names & {*tied} else set()) for setting, names in chosen.items()}


def trained_lines(cfg: RunConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield how many parameters train and what is chosen, where a recipe chooses some."""
    training = cfg.training
    if cfg.model.adapter_use is AdapterUse.continued:
        yield from _continued_lines(cfg)
    if training.lora.rank:
        yield from _adapter_lines(cfg, have)
    if not (training.freeze or training.parameter_groups):
        return
    sizes = parameter_sizes(cfg, have)
    if sizes is None:
        yield "trains     known once the model is here: training.freeze, training.parameter_groups"
        return
    groups = msgspec.to_builtins(training.parameter_groups)
    if problem := missing_layers(training.freeze, groups, sizes):
        yield f"warning    {problem}"
        return
    if not training.lora.rank:
        if problem := choice_problem(training.freeze, groups, sizes):
            yield f"warning    {problem}"
            return
        total = sum(sizes.values())
        yield f"trains     {total - num_frozen(training, sizes):,} of {total:,} parameters"
        for setting, names in _frozen(training, sizes).items():
            yield f"           {setting}: {sum(sizes[name] for name in names):,} frozen"
            if not all(sizes[name] for name in matching(HEAD, names)):
                yield "note       the head is the embeddings (tie_word_embeddings), which are frozen with it"
    for name, group in groups.items():
        if training.lora.rank:
            yield f"           training.parameter_groups.{name}: of the adapters' parameters, which the ranks make"
        elif not group["freeze"]:
            chosen = matching(group["match"], sizes)
            how = ", ".join(
                f"{key}={group[key]}" for key in ("learning_rate", "weight_decay") if group[key] is not None
            )
            yield f"           training.parameter_groups.{name}: {sum(sizes[each] for each in chosen):,} with {how}"


def _continued_lines(cfg: RunConfig) -> Iterator[str]:
    """Yield which adapter is trained on, by which settings, and what the tuned model is compared with."""
    lora = adapters.plain(cfg.training.lora)
    told = ", ".join(f"{name} {lora[name]}" for name in ("rank", "alpha", "dropout"))
    kinds = "".join(f", {name}" for name in ("use_rslora", "use_dora") if lora[name])
    yield f"continues  {cfg.model.adapter}: {told}{kinds} (training.lora)"
    if cfg.eval.enabled and cfg.eval.baseline:
        yield "           before the training is that adapter on its model, and not the model alone"


def _adapter_lines(cfg: RunConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield how many parameters adapters train, in which layers, and which have none."""
    lora, made = cfg.training.lora, have.get("model")
    config = read_config(made.model_dir) if isinstance(made, ModelArtifact) else read_model_config(cfg.model)
    shape = shape_of(config) if config else None
    if shape is None:
        known = "model is here" if config is None else "ranks have made the adapters, of an architecture not known here"
        yield f"trains     known once the {known}: training.lora"
        return
    sizes = parameter_sizes(cfg, have)
    matrices = adapters.matrices_of(shape)
    modules = {name.rpartition(".")[0] for name in sizes} if sizes and not shape.family.experts else None
    tied = {name.rpartition(".")[0] for name in sizes or () if shape.tied and matching_ends(name)}
    if problem := adapter_choice.problem(
        adapters.plain(lora),
        matrices,
        modules,
        tied,
        fsdp_version=cfg.training.fsdp.version,
        compiles=cfg.training.compile is Compile.regional,
    ):
        yield f"warning    {problem[0]}; try {problem[1]}"
        return
    adapted = adapters.adapted_by(lora, shape)
    whole = adapters.num_saved_whole(lora, shape, sizes)
    trained = adapters.num_adapter_parameters(lora, shape) + whole
    kinds = sorted({name.rpartition(".")[2] for name in adapted})
    total, of = shape.num_parameters + trained, f"adapters of {len(adapted)} matrices"
    yield f"trains     {trained:,} of {total:,} parameters, in {of} ({', '.join(kinds)})"
    if whole:
        yield f"           {whole:,} of them are {', '.join(lora.modules_to_save)}, trained whole"
    left = sorted({name.rpartition(".")[2] for name in matrices} - {*kinds})
    layers = {layer for name in matrices if (layer := layer_of(name)) is not None}
    without = len(layers - {layer_of(name) for name in adapted})
    some = f"; {without} of {len(layers)} layers" if without else ""
    ends = ["embeddings", "head", "norms", *(["router"] if shape.family.experts else [])]
    yield f"           not adapted: {', '.join([*left, *ends])}{some}"
    if (base := adapters.quantized_by(lora, shape)).num_matrices:
        kept = f"{base.num_matrices} matrices, {base.num_bytes / 2**30:.2f} GiB, whole on each rank"
        yield f"base       in 4 bits ({lora.quantize.value}): {kept}; the saved model has the unquantised weights"


def matching_ends(name: str) -> bool:
    """Return whether a tensor is the embeddings' or the head's."""
    return bool(matching(EMBEDDINGS, [name]) or matching(HEAD, [name]))


def moment_bytes(cfg: TrainingConfig, shape: Shape) -> float:
    """Return the bytes of the optimizer's state for each weight that is trained, in fp32 as the weight.

    Adafactor's means of rows and columns are less than 0.01 bytes of a weight from matrices of 1,024 x 1,024 on.
    """
    match cfg.optimizer:
        case Optimizer.lion:
            return _MOMENTUM_BYTES
        case Optimizer.adafactor:
            return 8 / shape.hidden_size  # a float for each row and each column of a square
        case Optimizer.muon:
            of_layers = shape.num_layers * shape.per_layer / shape.num_parameters
            return _MOMENTUM_BYTES * of_layers + _ADAMW_BYTES * (1 - of_layers)
        case _:
            return _ADAMW_BYTES
