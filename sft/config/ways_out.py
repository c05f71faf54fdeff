"""Settings with which a person lets code run, or a check be left out, that sft refuses otherwise; each is recorded.

The plan, the model card and ``sft verify`` name those that a run used, and a run that is repeated from a record that
came from elsewhere needs them given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ANY = object()
"""Any value but null opens it."""

WAYS_OUT: Mapping[str, tuple[Any, str]] = {
    "model.trust_remote_code": (True, "code that came with the base model was allowed to run"),
    "eval.allow_task_code": (True, "Python beside the recipe's tasks was allowed to run"),
    "training.allow_any_env": (True, "variables of training.env were allowed to load code"),
    "eval.vllm.python": (_ANY, "a program that the recipe names was run, as vLLM's Python"),
    "training.launcher.verify_tls": (False, "the cluster's certificate was not verified"),
}
"""Setting -> the value that opens it, and what a reader should know."""


def ways_out(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the ways out that a configuration uses, as ``setting=value`` -> what that means.

    Args:
        config: As plain data, like `record.RunRecord.config`; settings that an older record lacks are not used.
    """
    values = {key: value_of(config, key) for key in WAYS_OUT}
    return {
        f"{key}={values[key] if opened is _ANY else str(opened).lower()}": meaning
        for key, (opened, meaning) in WAYS_OUT.items()
        if (values[key] is not None if opened is _ANY else values[key] is opened)
    }


def value_of(config: Any, key: str) -> Any:
    """Return the value of a dotted key, None if there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
