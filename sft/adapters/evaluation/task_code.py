"""Owns what a recipe's own tasks may run: nothing, unless `eval.allow_task_code` lets them.

lm-eval imports Python beside a task (``!function``), loads metrics that it doesn't know as scripts from the hub or from
a folder (`evaluate.load`), and renders templates without Jinja's sandbox, out of which one can call anything. Its own
tasks are installed code, like lm-eval itself: they may do the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from sft.adapters.evaluation import task_index
from sft.adapters.patched import patched
from sft.errors import DataError
from sft.files import read_document

_KEY = "eval.include_path"
_FIX = "read that code; eval.allow_task_code=true then lets it run, and the record says so"
_FUNCTION = "!function"
_UNPICKLES = {"pandas", "spark", "generator", "cache"}
"""Builders of `datasets` that unpickle or call what they are given, in one version or another."""


def named_functions(folder: Path) -> dict[str, str]:
    """Return the first Python function that each YAML of a folder names, by the file's relative path.

    Nothing is imported: tags are read from the YAML's events.
    """
    named = {}
    for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            events = yaml.parse(read_document(file, task_index.LARGEST_BYTES), Loader=yaml.SafeLoader)
            tagged = (event for event in events if getattr(event, "tag", "") == _FUNCTION)
            function = next((str(getattr(event, "value", "")) for event in tagged), None)
        except yaml.YAMLError:
            continue  # lm-eval says so in its own words, and runs nothing of it
        if function is not None:
            named[file.relative_to(folder).as_posix()] = function
    return named


def task_code(*, allowed: bool) -> AbstractContextManager[None]:
    """Let tasks run no code of others until the block ends, unless that is allowed."""
    return nullcontext() if allowed else _refused()


@contextmanager
def _refused() -> Iterator[None]:
    import lm_eval.api.task as task_module
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils
    from lm_eval.api import registry
    from lm_eval.tasks import _yaml_loader
    from lm_eval.tasks._factory import TaskFactory

    own = task_index.root().resolve()
    load_config = TaskFactory._load_full_config
    import_function, get_metric, plain = _yaml_loader._import_func_in_yml, task_module.get_metric, utils.env
    sandbox = SandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandbox.filters.update(plain.filters)

    def own_functions_only(function: str, folder: Path) -> Any:
        if not folder.resolve().is_relative_to(own):
            raise DataError(f"{_KEY}: {folder} names Python code, {_FUNCTION} {function}", fix=_FIX)
        return import_function(function, folder)

    def own_metrics_only(name: str, hf_evaluate_metric: bool = False) -> Any:
        metric = None if hf_evaluate_metric or name not in registry.metric_registry else get_metric(name)
        if metric is None:
            raise DataError(
                f"eval.tasks: the metric {name} is not lm-eval's own, but a script from elsewhere", fix=_FIX
            )
        return metric

    def no_pickles(self: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config: dict[str, Any] = load_config(self, entry, overrides)
        if (builder := config.get("dataset_path")) in _UNPICKLES:
            raise DataError(f"eval.tasks: dataset_path: {builder} reads pickles, which can run code", fix=_FIX)
        return config

    with patched(
        (TaskFactory, "_load_full_config", no_pickles),
        (_yaml_loader, "_import_func_in_yml", own_functions_only),
        (task_module, "get_metric", own_metrics_only),
        (utils, "env", sandbox),
    ):
        yield
