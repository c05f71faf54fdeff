"""Evaluates one model in a child process: ``python -m sft.adapters.evaluation.worker``.

The model is loaded once for lm-eval's tasks and the held-out sets. lm-eval is imported only if there are tasks or
arguments for its model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import completions_model, holdout, lm_eval, tasks
from sft.adapters.evaluation.answer_cache import AnswerCache
from sft.adapters.evaluation.as_saved import differences, weights_dtype
from sft.adapters.evaluation.holdout_sample import draw
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.shares import Share, helpers
from sft.adapters.evaluation.task_code import task_code
from sft.adapters.os import child
from sft.chat.special_tokens import stops
from sft.chat.template import Renderer
from sft.chat.turn_tokens import TurnFinder

_MODULE = "sft.adapters.evaluation.worker"
_OWN = {"hf", "vllm"}
"""Backends that score the model of the request, and not what a server has."""
PROGRESS = "progress.json"
"""File that the parent process shows."""


def _evaluate(request: dict[str, Any]) -> Mapping[str, Any]:
    """Evaluate a model as `sft.stages.evaluate.request_of` says."""
    share = Share(**request["share"])
    share.take_cores()
    helping = nullcontext(lambda: True) if share.index else helpers(_MODULE, request)  # a helper ends with the first
    with (
        helping as are_others_at_work,
        task_code(allowed=request["allow_task_code"]) if request["tasks"] else nullcontext(),
    ):
        answers = AnswerCache(Path(request["answers"]), share, are_others_at_work)
        try:
            return _scores(request, answers)
        finally:
            answers.close()


def _scores(request: dict[str, Any], answers: AnswerCache) -> Mapping[str, Any]:
    out, meter = Path(request["out"]), ProgressFile(Path(request["progress"]))
    hf, is_own = request["backend"] == "hf", request["backend"] in _OWN
    manager = model = None
    if request["tasks"]:
        tasks.set_up_log(request["verbosity"])
        manager = tasks.task_manager(request["tasks"], request["include_path"])  # a wrong name shows before a long load
        loaders = {"hf": lm_eval.load_hf, "vllm": completions_model.load}
        model = loaders.get(request["backend"], lm_eval.load)(request)
    elif hf and request["model_args"]:  # they have lm-eval's meaning, with or without tasks
        model = lm_eval.load_hf(request)
    network, tokenizer = (model.model, model.tokenizer) if hf and model else (None, _tokenizer(request))
    template = hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
    result: dict[str, Any] = {"scores": [], "versions": {}, "data": {}}
    if request["tasks"]:
        result |= lm_eval.run(request, manager, model, out, meter, template, answers)
        if not is_own and answers.num_kept:
            before = f"{answers.num_kept:,} answers are from before this run was stopped"
            meter.note(f"{before}: nobody knows whether the server still has the same model")
    del model
    if request["held_out"]:
        network = network or _load(request)
        finder = TurnFinder(Renderer(tokenizer, stops(tokenizer, Path(request["model_dir"]))))
        if finder.renderer.folds_system:
            meter.note("the chat template knows no system turn: it is put before the first user's text")
        for held_out in request["held_out"]:
            sample = draw(
                Path(held_out["file"]),
                limit=held_out["limit"],
                seed=request["seed"],
                left_out=frozenset(held_out["left_out"]),
            )
            result["data"][held_out["name"]] = sample.digest
            result["scores"] += holdout.score(held_out, sample.places, network, finder, out, meter, answers)
    counts = {"num_kept": answers.num_kept, "num_new": answers.num_new}
    return {**result, **counts, "chat_template_sha256": template, "notes": meter.notes, **_as_saved(request)}


def _as_saved(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return in which type the weights are used, and what is scored otherwise than the model is saved."""
    folder, model_args = Path(request["model_dir"]), request["model_args"]
    if request["backend"] not in _OWN:
        return {"dtype": "", "differs_from_saved": []}
    writings = [held_out["writing"] for held_out in request["held_out"] if held_out["writing"]]
    is_greedy = any(writing["is_greedy"] for writing in writings)
    differs = differences(folder, model_args, is_greedy=is_greedy, writes_tasks=bool(request["tasks"]))
    return {"dtype": str(model_args.get("dtype", weights_dtype(folder))), "differs_from_saved": list(differs)}


def _tokenizer(request: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request["model_dir"], trust_remote_code=request["trust_remote_code"])


def _load(request: Mapping[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    trust, folder = request["trust_remote_code"], Path(request["model_dir"])
    arguments = {"dtype": weights_dtype(folder), "trust_remote_code": trust}
    if request["divides_model"]:  # by layers, over all GPUs
        return AutoModelForCausalLM.from_pretrained(folder, device_map="auto", **arguments).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, **arguments)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


if __name__ == "__main__":
    child.main(_evaluate)
