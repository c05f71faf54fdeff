"""Evaluation of one model in a child process: ``python -m sft.adapters.harness``. Only here: lm-eval.

One load of the model serves lm-eval's tasks and the held-out split. lm-eval is imported only when there are tasks
or arguments for its model.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sft.adapters import child, holdout
from sft.errors import DataError, StageError

PROGRESS = "progress.json"


def _evaluate(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. The request is `sft.stages.evaluate.request_of`'s."""
    out = Path(request["out"])
    result: dict[str, Any] = {"scores": [], "versions": {}}
    if request["tasks"]:
        manager = _task_manager(request["tasks"], request["include_path"])  # a wrong name shows before a long load
        loaded = _load_in_lm_eval(request)
        result |= _tasks(request, manager, loaded, out)
        model, tokenizer = loaded.model, loaded.tokenizer
    elif request["model_args"]:  # they mean what lm-eval makes of them, with tasks or without
        loaded = _load_in_lm_eval(request)
        model, tokenizer = loaded.model, loaded.tokenizer
    else:
        model, tokenizer = _load(request)
    if request["holdout"]:
        result["scores"] += _holdout(request["holdout"], request["seed"], model, tokenizer, out)
    template = tokenizer.chat_template
    result["chat_template_sha256"] = hashlib.sha256(str(template).encode()).hexdigest()
    return result


def _load(request: Mapping[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, trust = request["model_dir"], request["trust_remote_code"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trust)
    return model.to(_device()).eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)


def _load_in_lm_eval(request: Mapping[str, Any]) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=request["model_dir"],
        batch_size=request["batch_size"],
        device=_device(),
        trust_remote_code=request["trust_remote_code"],
        **request["model_args"],
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _tasks(request: Mapping[str, Any], manager: Any, model: Any, out: Path) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(out / "results.json"))
    seed = request["seed"]
    with _data_files_beside_their_task():
        results = simple_evaluate(
            model=model,
            tasks=request["tasks"],
            task_manager=manager,
            num_fewshot=request["num_fewshot"],
            limit=request["limit"],
            gen_kwargs=request["gen_kwargs"] or None,
            apply_chat_template=request["apply_chat_template"],
            log_samples=request["log_samples"],
            evaluation_tracker=tracker,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    samples = results.pop("samples", {})
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    if not list(out.glob("results_*.json")):  # the tracker logs its failures and goes on
        raise StageError(f"lm-eval could not write its results to {out}")
    return {"scores": list(scores_of(results)), "versions": dict(results["versions"])}


def _task_manager(tasks: list[str], include_path: str | None) -> Any:
    """Knows the tasks asked for; lm-eval's own are indexed (7 to 10 s) only when one of them is.

    Raises:
        DataError: A task is unknown.
    """
    from lm_eval.tasks import TaskManager

    if include_path:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if set(tasks) <= {*own.all_subtasks, *own.all_tags}:  # a group may hold lm-eval's own tasks
            return own
    manager = TaskManager(include_path=include_path)
    for name in tasks:
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, manager.all_tasks, n=3)
            fix = f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists them"
            raise DataError(f"eval.tasks: there is no lm-eval task {name}", fix=fix)
    return manager


@contextmanager
def _data_files_beside_their_task() -> Iterator[None]:
    """Reads relative `data_files` of a task from the folder of its YAML, not from wherever the process runs.

    tasks/_factory.py:_load_full_config@lm-eval 0.4.13 leaves them to `datasets`, which takes the working directory.
    """
    from lm_eval.tasks._factory import TaskFactory

    load = TaskFactory._load_full_config

    def load_beside(self: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config: dict[str, Any] = load(self, entry, overrides)
        options = config.get("dataset_kwargs") or {}
        if entry.yaml_path and "data_files" in options:
            files = _beside(Path(entry.yaml_path).parent, options["data_files"])
            config["dataset_kwargs"] = {**options, "data_files": files}
        return config

    with mock.patch.object(TaskFactory, "_load_full_config", load_beside):
        yield


def _beside(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {split: _beside(folder, names) for split, names in files.items()}
    if isinstance(files, list):
        return [_beside(folder, name) for name in files]
    return files if "://" in files else str(folder / files)


def scores_of(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every number in lm-eval's results, as the fields of `sft.artifacts.Score`.

    The first filter of a metric gives the plain name, as in ``exact_match``; a further one keeps lm-eval's
    ``exact_match,flexible-extract``.

    Raises:
        StageError: A task has no metric, or a metric is not a finite number.
    """
    for task, metrics in results["results"].items():
        seen: set[str] = set()
        for key, value in metrics.items():
            metric, comma, _ = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise StageError(f"eval.tasks: {task} gave {value!r} for {key}")
            stderr = metrics.get(f"{metric}_stderr,{key.partition(',')[2]}")
            yield {
                "task": task,
                "metric": key if metric in seen else metric,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None,
                "num_samples": _num_samples(task, results),
                "higher_is_better": results["higher_is_better"].get(task, {}).get(metric) is not False,
            }
            seen.add(metric)
        if not seen and task not in results.get("group_subtasks", {}):
            raise StageError(f"eval.tasks: {task} gave no metric; its results: {dict(metrics)}")


def _num_samples(task: str, results: Mapping[str, Any]) -> int:
    if task in results["n-samples"]:
        return int(results["n-samples"][task]["effective"])
    return sum(_num_samples(subtask, results) for subtask in results["group_subtasks"][task])


def _holdout(request: Mapping[str, Any], seed: int, model: Any, tokenizer: Any, out: Path) -> list[dict[str, Any]]:
    import torch

    torch.manual_seed(seed)
    state = Path(request["progress"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with Path(request["file"]).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, request["limit"])]
    answers = [holdout.render(index, row["messages"], tokenizer, row.get("tools")) for index, row in enumerate(rows)]
    batch_size = request["batch_size"]
    for done in holdout.score_loss(answers, model, tokenizer.pad_token_id, batch_size):
        child.write_json(state, {"text": f"held-out loss {done}/{len(answers)}"})
    (loss, loss_error), (accuracy, accuracy_error) = holdout.mean_loss(answers), holdout.token_accuracy(answers)
    measured = [("loss", loss, loss_error, False), ("token_accuracy", accuracy, accuracy_error, True)]
    if request["generate"]:
        for done in holdout.write_answers(answers, model, tokenizer, request["max_new_tokens"], batch_size):
            child.write_json(state, {"text": f"held-out answers {done}/{len(answers)}"})
        measured.append(("exact_match", *holdout.exact_match(answers), True))
    with (out / "samples_holdout.jsonl").open("w", encoding="utf-8") as file:
        for answer in answers:
            sample = {
                "index": answer.index,
                "prompt": answer.prompt,
                "target": answer.target,
                "answer": answer.written,
                "exact_match": answer.exact if request["generate"] else None,
                "loss": answer.loss,
                "num_tokens": answer.num_tokens,
            }
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
    return [
        {
            "task": "holdout",
            "metric": metric,
            "value": value,
            "stderr": error,
            "num_samples": len(answers),
            "higher_is_better": better,
        }
        for metric, value, error, better in measured
    ]


if __name__ == "__main__":
    child.main(_evaluate)
