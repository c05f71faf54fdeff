"""The names of lm-eval that are patched or leant on, as the installed version has them."""

from __future__ import annotations

import inspect

import pytest

pytestmark = [
    pytest.mark.slow,
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def names(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type] # whatever stands there


def test_what_is_patched_is_there_with_the_arguments_it_is_called_with() -> None:
    from lm_eval import utils
    from lm_eval.api.model import LM, CacheHook
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._factory import TaskFactory

    assert names(TaskFactory._load_full_config) == ["self", "entry", "overrides"]
    assert names(HFLM._detect_batch_size) == ["self", "requests", "pos"]
    assert names(LM.set_cache_hook) == ["self", "cache_hook"]
    assert names(CacheHook.add_partial) == ["self", "attr", "req", "res"]
    assert "env.from_string(template)" in inspect.getsource(utils.apply_template)
    assert "self.max_batch_size" in inspect.getsource(HFLM._detect_batch_size)
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        assert names(getattr(HFLM, kind))[:2] == ["self", "requests"]
