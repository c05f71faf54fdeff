"""What the full states of a training are known by: what determines the order of its data and its model.

The key of a result holds the machine too: with another number of ranks a training ends with other last digits. But its
full state loads on any number of them, so the state's name leaves the machine out, apart from the arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from sft.planning.plan import Step
from sft.planning.stage_spec import STAGES


def state_id(step: Step, digests: Mapping[str, str]) -> str:
    """Return the name of the full states of a training, given the digest of each artifact that it needs.

    Args:
        step: The training.
        digests: As `Step.key` takes them.
    """
    content = {
        "settings": STAGES[step.stage].without_machine(step.settings),
        "precision": step.settings["resources"].get("precision"),
        "inputs": [digests[name] for name in step.needs],
    }
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:20]
