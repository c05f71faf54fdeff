"""Owns running lm-eval's tasks on a model that is loaded once. Only here: lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import task_notes
from sft.adapters.evaluation.answer_cache import AnswerCache
from sft.adapters.evaluation.as_saved import weights_dtype
from sft.adapters.evaluation.oom_batches import free_memory, is_out_of_memory
from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.results import digest_of_documents, refuse_nan, scores_of, values_of
from sft.adapters.evaluation.tasks import data_files_beside_task, templates_compiled_once
from sft.chat.special_tokens import stops
from sft.chat.template import Renderer, TemplateError
from sft.errors import StageError
from sft.sample_values import append

_SHOWN_CHARACTERS = 400
_LARGEST_BATCH = {"cpu": 16, "cuda": 64}
_LOGITS_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
"""Largest size of one batch's float32 logits and their log-softmax."""


def load_hf(request: Mapping[str, Any]) -> Any:
    """Load a model with transformers, as lm-eval does.

    lm-eval finds the largest batch by five passes of the largest one, which on a CPU takes longer than many tasks. This
    model computes it; running out of memory halves it (`run`).
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Model(HFLM):  # type: ignore[misc]
        def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:  # huggingface.py:981@0.4.13
            most = int(self.max_batch_size)
            if requests:
                _, context, continuation = requests[pos]
                longest = min(len(context) + len(continuation), self.max_length)
                most = min(most, _LOGITS_BYTES[device] // (8 * self.vocab_size * longest))
            self.last_batch_size = max(1, most)
            return self.last_batch_size

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            # huggingface.py:1718@0.4.13 leaves the system turn out, and only logs it, where a template knows none.
            return rendered(renderer, chat_history, add_generation_prompt=add_generation_prompt)

    if request["apply_chat_template"] and "add_bos_token" not in request["model_args"]:
        # The template writes the token that begins a text, if any: training and servers add no other one.
        arguments = {"add_bos_token": False, **request["model_args"]}
    else:
        arguments = request["model_args"]
    model = Model(
        pretrained=request["model_dir"],
        batch_size=request["batch_size"],
        max_batch_size=_LARGEST_BATCH[device],
        device=device,
        trust_remote_code=request["trust_remote_code"],
        **{"dtype": weights_dtype(Path(request["model_dir"])), **arguments},
    )
    renderer = Renderer(model.tokenizer, stops(model.tokenizer, Path(request["model_dir"])))
    return model


def rendered(renderer: Renderer, messages: Any, *, add_generation_prompt: bool) -> str:
    """Return a task's prompt, from which generation starts as in training and on the held-out split.

    Raises:
        StageError: The template can't render it.
    """
    try:
        return renderer.prompt(messages) if add_generation_prompt else renderer.continued(messages)
    except TemplateError as error:
        what = str(messages)[:_SHOWN_CHARACTERS]
        raise StageError(
            f"eval.apply_chat_template: the chat template can't render a prompt: {error}; the conversation: {what}",
            fix="eval.apply_chat_template=false, or another template (model.chat_template)",
        ) from error


def load(request: Mapping[str, Any]) -> Any:
    """Load a model of lm-eval that asks a server which already runs.

    Raises:
        StageError: It is not installed.
    """
    from lm_eval.api.registry import get_model

    backend = request["backend"]
    batch_size = 1 if request["batch_size"] == "auto" else request["batch_size"]
    try:
        return get_model(backend).create_from_arg_obj(dict(request["model_args"]), {"batch_size": batch_size})
    except ModuleNotFoundError as error:
        raise StageError(f"eval.backend={backend}: {error}", fix="pip install 'sft-runner[api]'") from error


def run(
    request: Mapping[str, Any],
    manager: Any,
    model: Any,
    out: Path,
    meter: ProgressFile,
    template: str,
    answers: AnswerCache,
) -> dict[str, Any]:
    """Score the tasks, and write lm-eval's ``results_*.json`` and ``samples_*.jsonl``.

    Args:
        request: The request of `sft.stages.evaluate.request_of`.
        manager: The task manager of `task_manager`.
        model: An lm-eval model.
        out: Folder for the files.
        meter: Counts requests; is told what lm-eval only logs.
        template: sha256 of the chat template.
        answers: What the model has answered before; gets what it answers now.

    Returns:
        ``scores``, the ``versions`` of the tasks, and under ``data`` a digest of each task's documents.

    Raises:
        DataError: A task's data can't be read.
        StageError: A metric is missing or not a number, or one request alone needs too much memory.
    """
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(out / "results.json"))
    answers.watch(model, meter, is_server=request["backend"] != "hf")
    results = _evaluate(request, manager, model, tracker, meter)
    samples = results.pop("samples")
    refuse_nan(samples)
    scores = list(scores_of(results))
    append(out, values_of(results, samples))
    for note in task_notes.notes(request, model, results, samples) if not answers.share.index else ():
        meter.note(note)
    tracker.save_results_aggregated(results=results, samples=samples)
    if request["log_samples"]:
        for name, rows in samples.items():
            facts = {"task_version": results["versions"].get(name), "chat_template_sha256": template}
            tracker.save_results_samples(task_name=name, samples=[row | facts for row in rows])
    if not list(out.glob("results_*.json")):  # the tracker only logs its failures
        raise StageError(f"lm-eval could not write its results to {out}")
    data = {name: digest_of_documents(rows) for name, rows in samples.items()}
    return {"scores": scores, "versions": dict(results["versions"]), "data": data}


def _evaluate(
    request: Mapping[str, Any], manager: Any, model: Any, tracker: Any, meter: ProgressFile
) -> dict[str, Any]:
    """Run `simple_evaluate`, again with half the batch if memory ran out; no answered request is asked again."""
    from lm_eval import simple_evaluate

    seed = request["seed"]
    while True:
        try:
            with data_files_beside_task(), templates_compiled_once():
                results: dict[str, Any] = simple_evaluate(
                    model=model,
                    tasks=request["tasks"],
                    task_manager=manager,
                    num_fewshot=request["num_fewshot"],
                    limit=request["limit"],
                    gen_kwargs=request["gen_kwargs"] or None,
                    apply_chat_template=request["apply_chat_template"],
                    system_instruction=request["system_instruction"],
                    fewshot_as_multiturn=request["fewshot_as_multiturn"],
                    evaluation_tracker=tracker,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
            return results
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size = _halve(model, error)
        free_memory()
        meter.note(f"out of memory: continuing with {size} {'request' if size == 1 else 'requests'} at once")


def _halve(model: Any, error: RuntimeError) -> int:
    """Halve the batch for everything that follows, and return its size.

    Raises:
        StageError: The batch was one request.
    """
    automatic = model.batch_size_per_gpu == "auto"
    size = (model.last_batch_size if automatic else int(model.batch_size_per_gpu)) // 2
    if not size:
        fix = "lower eval.model_args.max_length, or use a machine with more memory"
        raise StageError("eval.tasks: one request alone needs too much memory", fix=fix) from error
    if automatic:
        model.max_batch_size = size
    else:
        model.batch_size_per_gpu = size
    return size
