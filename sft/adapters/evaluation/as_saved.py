"""How a model's folder says that it is to be used, and what of that an evaluation does otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import CONFIG, FLOATS, config_dtype, read_json, read_tensors, stored_dtype

GENERATION_CONFIG = "generation_config.json"
_NOT_ABOUT_TEXT = {"transformers_version", "_from_model_config", "use_cache", "cache_implementation", "max_length"}
_ONLY_SAMPLED = {"do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1, "length_penalty": 1.0, "no_repeat_ngram_size": 0}


def weights_dtype(folder: Path) -> str:
    """Return the type in which a model is loaded so that nothing is rounded: that of most of its weights.

    ``dtype="auto"`` of transformers believes ``config.json`` instead, which may say bf16 of fp32 weights. A quantised
    model's weights are its method's to load: ``auto``.

    Raises:
        StageError: The weights can't be read.
    """
    return "auto" if "quantization_config" in read_json(folder / CONFIG) else stored_dtype(folder)


def generation_settings(folder: Path) -> dict[str, Any]:
    """Return what ``generation_config.json`` says of how texts are written, stops and lengths aside."""
    file = folder / GENERATION_CONFIG
    content = read_json(file) if file.exists() else {}
    told = {
        name: value
        for name, value in content.items()
        if name not in _NOT_ABOUT_TEXT and not name.endswith("_token_id") and value != _NEUTRAL.get(name)
    }
    is_sampled = bool(told.get("do_sample"))
    return {name: value for name, value in told.items() if is_sampled or name not in _ONLY_SAMPLED}


def differences(folder: Path, model_args: Mapping[str, Any], *, is_greedy: bool, writes_tasks: bool) -> Iterator[str]:
    """Yield a line for each thing that is scored otherwise than the model is saved.

    Args:
        folder: The model's.
        model_args: What the recipe tells lm-eval's model.
        is_greedy: Whether held-out answers are written greedily.
        writes_tasks: Whether tasks are scored.
    """
    saved = weights_dtype(folder)
    used = str(model_args.get("dtype", saved)).removeprefix("torch.")
    if saved != "auto":
        if used not in {saved, "auto"}:
            yield f"eval.model_args.dtype={used}: the weights are saved in {saved}"
        kinds = Counter(FLOATS[tensor.dtype] for tensor in read_tensors(folder).values() if tensor.dtype in FLOATS)
        others = ", ".join(f"{count} in {kind}" for kind, count in kinds.items() if kind != saved)
        if others:
            yield f"of {kinds.total()} weights {others} are computed with in {used}, as most are saved"
        said = config_dtype(read_json(folder / CONFIG))
        if said not in {None, saved} and used == saved:
            yield f"{CONFIG} says {said}, in which others load it; it is scored in {saved}, as its weights are saved"
    settings = ", ".join(f"{name}={value}" for name, value in generation_settings(folder).items())
    if settings and is_greedy:
        yield f"held-out answers are greedy (eval.holdout.sampling), without {GENERATION_CONFIG}'s {settings}"
    if settings and writes_tasks:
        yield f"tasks are written as they and eval.gen_kwargs say, greedily by default; {GENERATION_CONFIG}: {settings}"
