"""Nobody changes what a stage computes without saying whether its results differ.

``golden/stage_code.txt`` holds the digest of each module that makes a stage's result, beside the stage's revision. If a
change makes other results of the same inputs, raise `StageSpec.revision`; then, or if it does not, accept the new
digests with UPDATE_GOLDEN=1. Comments, docstrings and layout don't count.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.planning.stage_spec import STAGES

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "stage_code.txt"

WITHOUT_INFLUENCE = {
    *(
        "sft",
        "sft.errors",
        "sft.adapters.instructlab.token_texts",  # what of the samples is shown, among the logs
        "sft.stages.preview",
        "sft.known_secrets",
        "sft.redaction",
        "sft.logs",
        "sft.progress",
        "sft.artifacts",
        "sft.artifacts.base",
        "sft.artifacts.inputs",
        "sft.artifacts.training",
        "sft.artifacts.evaluation",
        "sft.artifacts.published",
        "sft.scores",
        "sft.self_hashed_json",
    ),
    *("sft.adapters", "sft.chat", "sft.stages", "sft.config", "sft.planning", "sft.adapters.os", "sft.adapters.hub"),
    *("sft.adapters.instructlab", "sft.adapters.instructlab.rank", "sft.adapters.evaluation", "sft.adapters.kubeflow"),
    # They carry bytes, requests and messages from here to there; what arrives is hashed or fails.
    *(
        "sft.adapters.os.child",
        "sft.adapters.os.guard",
        "sft.adapters.os.interpreter",
        "sft.adapters.os.process",
        "sft.adapters.os.command",
        "sft.adapters.http",
        "sft.adapters.http_client",
        "sft.adapters.proxy",
        "sft.adapters.storage",
        "sft.adapters.storage_folder",
    ),
    *("sft.adapters.base_model", "sft.adapters.oci_model", "sft.adapters.upload.oci_answer"),
    "sft.adapters.os.pod_secrets",
    "sft.adapters.local_files",
    # Speeds, which are not part of a checkpoint's digest.
    *(
        "sft.adapters.instructlab.rank.throughput",
        "sft.planning.flops",
        "sft.planning.gpu_peaks",
        "sft.planning.step_count",
    ),
    "sft.adapters.instructlab.rank.profiler",
    "sft.planning.model_notes",  # lines, and a refusal
    "sft.planning.model_shape",
    *("sft.adapters.instructlab.layout", "sft.adapters.instructlab.settings", "sft.adapters.instructlab.monitor"),
    "sft.adapters.instructlab.failure",
    # They are told of a training, and change nothing of it.
    *("sft.adapters.callbacks", "sft.adapters.instructlab.training_callbacks"),
    *("sft.adapters.instructlab.tracking", "sft.stages.launcher", "sft.stages.trainjob", "sft.adapters.kubeflow.job"),
    *("sft.adapters.evaluation.progress_file", "sft.adapters.evaluation.task_index"),
    *("sft.adapters.evaluation.task_files", "sft.adapters.evaluation.task_scores"),
    # They refuse, or decide who may listen.
    *("sft.adapters.evaluation.task_code", "sft.adapters.instructlab.private_store"),
    *(
        "sft.files",
        "sft.file_locks",
        "sft.memory_limit",
        "sft.scratch",
        "sft.adapters.retry",
        "sft.adapters.partial_file",
        "sft.adapters.patched",
    ),
    # The judge's stage takes the name of a file from it; what is in the file is hashed.
    "sft.adapters.evaluation.holdout",
    # What they decide is in the key itself; how many processes share an evaluation changes no score.
    *("sft.planning.resources", "sft.planning.ranks", "sft.adapters.os.machine", "sft.adapters.os.cgroup"),
    # They read what a file or the driver says; what a stage makes of it is the stage's.
    *("sft.planning.model_config", "sft.adapters.os.driver", "sft.adapters.os.gpus"),
    # The upload stage takes the names of files from it.
    "sft.stages.package",
}
"""Packages, and modules that decide nothing of a result."""


def source(module: str) -> str:
    path = ROOT / Path(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Of what a module's code does."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not is_text(part)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def pins() -> Iterator[str]:
    for stage in STAGES.values():
        yield f"{stage.name} revision {stage.revision}"
        for module in sorted(stage.modules):
            yield f"  {module} {digest(source(module))}"


def test_a_change_of_a_stages_code_is_declared() -> None:
    text = "".join(f"{line}\n" for line in pins())
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), (
        "the code of a stage changed: raise its StageSpec.revision if it makes other results of the same inputs; "
        "then UPDATE_GOLDEN=1 accepts the new digests"
    )


@pytest.mark.parametrize(
    ("stage", "module", "before", "after"),
    [
        ("train", "sft.adapters.instructlab.rank.loss", ".sum()", ".mean()"),
        ("train", "sft.adapters.instructlab.packed_rows", "ROW_LENGTHS = 16", "ROW_LENGTHS = 17"),
        ("tokenize", "sft.chat.loss", "NO_LOSS = -100", "NO_LOSS = -101"),
        ("evaluate", "sft.adapters.evaluation.text_metrics", ".fmeasure", ".recall"),
        ("dataset", "sft.stages.split", "else train_split", "else train_split / 2"),
    ],
)
def test_a_deliberate_edit_of_what_a_stage_computes_is_seen(stage: str, module: str, before: str, after: str) -> None:
    text = source(module)
    assert module in STAGES[stage].modules
    assert before in text, "edit something else in this module"
    pinned = GOLDEN.read_text(encoding="utf-8")
    assert f"  {module} {digest(text)}\n" in pinned
    assert f"  {module} {digest(text.replace(before, after, 1))}\n" not in pinned


def test_comments_docstrings_and_layout_do_not_count() -> None:
    assert digest('def f(x):\n    """Text."""\n    return x  # why\n') == digest("def f(x):\n    return (x)\n")


def imported_by(module: str) -> set[str]:
    """Modules of ours that a module imports, inside its functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sft":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if exists(name) else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sft"}
    return found


def exists(module: str) -> bool:
    path = ROOT / Path(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_module_that_a_stage_uses_is_pinned_or_known_to_have_no_influence() -> None:
    unknown = {}
    for stage in STAGES.values():
        used = {other for module in stage.modules for other in imported_by(module)}
        if rest := {m for m in used - set(stage.modules) - WITHOUT_INFLUENCE if not m.startswith("sft.config")}:
            unknown[stage.name] = sorted(rest)
    assert unknown == {}
