"""Only what the tasks asked for need is indexed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.evaluation import tasks
from sft.errors import DataError


@pytest.mark.slow
def test_only_the_folders_of_the_tasks_asked_for_are_indexed(tmp_path: Path) -> None:
    (tmp_path / "mixed.yaml").write_text("group: mixed\ntask: [own, arc_easy]\n")
    (tmp_path / "own.yaml").write_text("task: own\ndataset_path: json\n")
    assert tasks.task_manager(["own"], str(tmp_path)).all_tasks == ["mixed", "own"]
    mixed = tasks.task_manager(["mixed"], str(tmp_path)).all_tasks
    assert {"mixed", "own", "arc_easy", "arc_challenge"} <= {*mixed}
    assert "gsm8k" not in mixed
    mmlu = tasks.task_manager(["mmlu"], None)
    assert "mmlu_anatomy" in mmlu.all_tasks
    assert mmlu.task_index["mmlu"].cfg["task"]
    with pytest.raises(DataError, match="there is no lm-eval task nonesuch"):
        tasks.task_manager(["arc_easy", "nonesuch"], None)
