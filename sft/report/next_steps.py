"""What can be done with the model of a run: load it, talk to it, serve it, train it further."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from sft.artifacts import Artifact, ModelPackage
from sft.config.ways_out import value_of
from sft.files import path_from_here
from sft.record import RunRecord
from sft.runner.result_links import MODEL_LINK


def next_steps(folder: Path, record: RunRecord, made: Mapping[str, Artifact]) -> dict[str, str]:
    """Return how a run's model is used, by what for; nothing where it has none.

    Args:
        folder: The run's.
        record: Its record.
        made: What its steps made, by their names.
    """
    package, link = made.get("package"), folder / MODEL_LINK
    if not isinstance(package, ModelPackage) or not link.exists():
        return {}  # not packaged, or a file system without links
    is_linked = link.resolve() == package.model_dir.resolve()  # else it is a person's own folder, of that name
    run, model = path_from_here(folder), path_from_here(link if is_linked else package.model_dir)
    way = " model.trust_remote_code=true" if value_of(record.config, "model.trust_remote_code") is True else ""
    return {
        "load": f"AutoModelForCausalLM.from_pretrained({str(model)!r})",
        "chat": f"sft chat {shlex.quote(str(run))}{way}",
        "serve": f"sft serve {shlex.quote(str(run))}{way}",
        "continue": f"sft run RECIPE model.name_or_path={shlex.quote(str(model))}{way}",
    }
