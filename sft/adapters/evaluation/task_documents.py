"""The documents of lm-eval tasks, by lm-eval's own machinery. A child process:
``python -m sft.adapters.evaluation.task_documents``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.evaluation import tasks
from sft.adapters.evaluation.task_code import task_code
from sft.adapters.os import child


def _write(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``tasks``, ``include_path``, ``target``: a JSON Lines file.

    Writes a line ``{"task", "prompt", "answer"}`` for each document on which a task scores; returns the sha256 of each
    task's documents under ``data``.
    """
    tasks.set_up_log("WARNING")
    digests = {}
    with (
        Path(request["target"]).open("wb") as target,
        task_code(allowed=request["allow_task_code"]),
        tasks.templates_compiled_once(),
    ):
        for name, task in tasks.load_tasks(request["tasks"], request["include_path"]).items():
            digest = hashlib.sha256()
            for document in task.eval_docs:
                facts = {"task": name, "prompt": _prompt(task, document), "answer": _answer(task, document)}
                line = msgspec.json.encode(facts) + b"\n"
                digest.update(line)
                target.write(line)
            digests[name] = digest.hexdigest()
    return {"data": digests}


def _prompt(task: Any, document: Any) -> str:
    """Return what the model is asked; where that is one of several texts (Winogrande), all of them."""
    prompt = task.doc_to_text(document)
    return prompt if isinstance(prompt, str) else "\n".join(map(str, task.doc_to_choice(document)))


def _answer(task: Any, document: Any) -> str:
    """Return the right answer as a text."""
    answer = task.doc_to_target(document)
    if isinstance(answer, int) and getattr(task.config, "doc_to_choice", None) is not None:
        answer = task.doc_to_choice(document)[answer]
    return "\n".join(map(str, answer)) if isinstance(answer, list | tuple) else str(answer)


if __name__ == "__main__":
    child.main(_write)
