"""Which of a model's parameters a pattern of a recipe means, by their names. Pure: the plan and the ranks ask it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping

EMBEDDINGS, HEAD = "embeddings", "lm_head"
_LAYERS = re.compile(r"layers\.(\d{1,6})(?:-(\d{1,6}))?")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.")
_EMBEDDING_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "lm_head.bias")


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a parameter or a module is in; None if it is outside of them."""
    found = _LAYER.search(f"{name}.")
    return int(found[1]) if found else None


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern on its own; None if nothing is."""
    if (layers := _LAYERS.fullmatch(pattern)) and layers[2] is not None and int(layers[2]) < int(layers[1]):
        return "must name the lower layer first"
    is_name = pattern in (EMBEDDINGS, HEAD) or layers or "." in pattern or "*" in pattern
    return None if is_name else f"must be {EMBEDDINGS}, {HEAD}, layers.0-11, or a parameter's name, with * for any text"


def matching(pattern: str, names: Collection[str]) -> set[str]:
    """Return the names that a pattern means.

    Args:
        pattern: ``embeddings``, ``lm_head``, ``layers.4``, ``layers.0-11``; or a parameter's name, in which ``*``
            stands for any text, ``?`` for a character and ``[ab]`` for one of some.
        names: Of a model's parameters, as transformers has them.
    """
    if pattern in (EMBEDDINGS, HEAD):
        endings = _EMBEDDING_NAMES if pattern == EMBEDDINGS else _HEAD_NAMES
        return {name for name in names if name.endswith(endings)}
    if layers := _LAYERS.fullmatch(pattern):
        wanted = range(int(layers[1]), int(layers[2] or layers[1]) + 1)
        return {name for name in names if (layer := _LAYER.search(name)) and int(layer[1]) in wanted}
    return {name for name in names if fnmatch.fnmatchcase(name, pattern)}


def frozen_names(
    freeze: Collection[str], groups: Mapping[str, Mapping[str, object]], names: Collection[str]
) -> dict[str, set[str]]:
    """Return the names that are not trained, by the setting that says so.

    Args:
        freeze: `training.freeze`.
        groups: `training.parameter_groups`, as plain data.
        names: Of a model's parameters.
    """
    chosen = {f"training.freeze: {pattern}": matching(pattern, names) for pattern in freeze}
    frozen = {name: str(group["match"]) for name, group in groups.items() if group["freeze"]}
    return chosen | {
        f"training.parameter_groups.{name}.match": matching(match, names) for name, match in frozen.items()
    }


def missing_layers(
    freeze: Collection[str], groups: Mapping[str, Mapping[str, object]], names: Collection[str]
) -> str | None:
    """Return which layers a recipe names that the model has not; None if it has them all.

    Args:
        freeze: `training.freeze`.
        groups: `training.parameter_groups`, as plain data.
        names: Of all its parameters.
    """
    last = max((int(found[1]) for name in names if (found := _LAYER.search(name))), default=-1)
    patterns = [("training.freeze", pattern) for pattern in freeze]
    patterns += [(f"training.parameter_groups.{name}.match", str(group["match"])) for name, group in groups.items()]
    for setting, pattern in patterns:
        if (layers := _LAYERS.fullmatch(pattern)) and 0 <= last < int(layers[2] or layers[1]):
            return f"{setting}: {pattern} goes past the model's last layer, layers.{last}"
    return None


def choice_problem(
    freeze: Collection[str], groups: Mapping[str, Mapping[str, object]], names: Collection[str]
) -> str | None:
    """Return why what a recipe chooses can't be of a model with these parameters; None if it can.

    Args:
        freeze: `training.freeze`.
        groups: `training.parameter_groups`, as plain data.
        names: Of its parameters.
    """
    by_setting = frozen_names(freeze, groups, names)
    of_groups = {name: matching(str(group["match"]), names) for name, group in groups.items()}
    by_setting |= {f"training.parameter_groups.{name}.match": chosen for name, chosen in of_groups.items()}
    for setting, chosen in by_setting.items():
        if not chosen:
            return f"{setting} matches no parameter of the model, such as {', '.join(sorted(names)[:3])}"
    seen: dict[str, str] = {}
    for group, chosen in of_groups.items():
        for name in sorted(chosen):
            if name in seen:
                return f"{name} is in two of training.parameter_groups: {seen[name]} and {group}"
            seen[name] = group
    if names and set().union(*frozen_names(freeze, groups, names).values()) >= set(names):
        return "training.freeze and training.parameter_groups leave no parameter to train"
    return None
