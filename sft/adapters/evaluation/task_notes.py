"""What a person should know of how lm-eval asked its tasks: prompts and answers that were cut, idle settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST_TOKENS_PER_BYTE = 2
"""Tokens of a text are at most its bytes, unless a tokenizer's normaliser makes it longer."""
_NEARLY = 0.97
"""Of the tokens that a model wrote, its text has at least so many when it is read again."""


def notes(
    request: Mapping[str, Any], model: Any, results: Mapping[str, Any], samples: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Yield a note on each thing that lm-eval only logs, task by task.

    Args:
        request: The request of `sft.stages.evaluate.request_of`.
        model: The lm-eval model that was asked.
        results: lm-eval's results.
        samples: The logged samples of each task.
    """
    for task, rows in samples.items():
        if request["backend"] in {"hf", "vllm"}:  # of another server nobody knows the tokenizer
            yield from _cut_prompts(request["backend"], model, task, rows)
            yield from _cut_answers(request["backend"], model, task, rows)
        wanted, given = request["num_fewshot"], results["n-shot"].get(task)
        if wanted is not None and given is not None and given != wanted:
            yield f"eval.num_fewshot={wanted} does nothing for {task}, which says itself: {given}"
        if request["backend"] == "hf" and "temperature" in request["gen_kwargs"] and any(map(_stays_greedy, rows)):
            yield f"eval.gen_kwargs.temperature does nothing for {task}, which says do_sample: false"


def _cut_prompts(backend: str, model: Any, task: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    asked = {row["doc_id"]: row["arguments"] for row in rows}
    count = sum(any(_is_cut(backend, model, *arguments) for arguments in each) for each in asked.values())
    if count:
        room = "eval.model_args.max_length, less what is written"
        yield (
            f"{count:,} of {len(asked):,} prompts of {task} were longer than the model's context ({room}), and their "
            "beginning was cut off"
        )


def _cut_answers(backend: str, model: Any, task: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a note on answers that end where they had to, as far as their texts show it: lm-eval keeps no more."""
    written = [
        (text, _num_written(backend, model, settings))
        for row in {row["doc_id"]: row for row in rows}.values()  # a row is there once for each filter
        for (_, settings, *_), texts in zip(row["arguments"], row["resps"], strict=True)
        if isinstance(settings, Mapping)
        for text in texts
    ]
    if count := sum(_fills(model, text, most) for text, most in written):
        most = max(most for _, most in written)
        yield (
            f"{count:,} of {len(written):,} answers of {task} are as long as max_gen_toks={most} lets them be, so that "
            "they may be cut: see eval.gen_kwargs.max_gen_toks"
        )


def _fills(model: Any, text: str, most: int) -> bool:
    """Return whether a text has as many tokens as a model may write, or nearly so: written it may have had more."""
    least = most * _NEARLY
    return _may_exceed(text, least) and len(model.tok_encode(text, add_special_tokens=False)) >= least


def _is_cut(backend: str, model: Any, prompt: str, asked: Any = None) -> bool:
    """Return whether lm-eval cut a prompt: huggingface.py:1429 and :1644, api_models.py:574 and :763@0.4.13."""
    if isinstance(asked, str):
        most = model.max_length + (backend == "hf")
        return _may_exceed(prompt + asked, most) and _num_tokens(model, prompt, asked) > most
    if isinstance(asked, Mapping):
        most = model.max_length - _num_written(backend, model, asked)
        return _may_exceed(prompt, most) and len(model.tok_encode(prompt)) > most
    return False  # a text whose likelihood is asked for is read in windows


def _may_exceed(text: str, most: float) -> bool:
    return len(text.encode(errors="replace")) * _MOST_TOKENS_PER_BYTE > most


def _num_tokens(model: Any, prompt: str, continuation: str) -> int:
    if not prompt:  # a beginning token stands in for it
        return 1 + len(model.tok_encode(continuation, add_special_tokens=False))
    return sum(map(len, model._encode_pair(prompt, continuation)))


def _num_written(backend: str, model: Any, settings: Mapping[str, Any]) -> int:
    """Return for how many tokens of an answer there is to be room."""
    if backend == "hf":
        from lm_eval.models.utils import normalize_gen_kwargs

        return int(normalize_gen_kwargs(dict(settings), model.max_gen_toks)["max_gen_toks"])
    return int(settings.get("max_gen_toks", model._max_gen_toks))


def _stays_greedy(row: Mapping[str, Any]) -> bool:
    """Return whether a temperature is asked for, and lm-eval writes greedily all the same."""
    settings = [part for arguments in row["arguments"] for part in arguments if isinstance(part, Mapping)]
    return any(one.get("do_sample") is False and float(one.get("temperature") or 0) > 0 for one in settings)
