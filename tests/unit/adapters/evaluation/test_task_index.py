"""Names of tasks, found without lm-eval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sft.adapters.evaluation import task_index


@pytest.mark.parametrize(
    ("name", "folders"),
    [("arc_easy", {"arc"}), ("gsm8k", {"gsm8k"}), ("mmlu", {"mmlu"}), ("ai2_arc", {"arc"})],
)
def test_a_task_a_group_and_a_tag_are_found_where_they_are_defined(name: str, folders: set[str]) -> None:
    assert {folder.name for folder in task_index.folders([name])[name]} == folders


def test_a_name_that_nothing_defines_is_left_out_and_the_nearest_are_known(tmp_path: Path) -> None:
    assert task_index.folders(["arc_eazy"]) == {}
    assert task_index.closest("arc_eazy", None)[0] == "arc_easy"
    (tmp_path / "mine.yaml").write_text("task: my_own_questions\n")
    assert task_index.closest("my_own_question", tmp_path)[0] == "my_own_questions"


def test_names_are_read_however_yaml_spells_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "tag:\n  # a list\n  - one\n  - 'two'\ntask: three  # of course\ndataset_path: json\n"
    )
    (tmp_path / "b.yaml").write_text('group: "four"\ntask:\n  - three\n  - five\n')
    assert task_index.own(tmp_path) == {"one", "two", "three", "four"}


def test_looking_names_up_imports_nothing_heavy() -> None:
    code = "import sys; from sft.adapters.evaluation import task_index; task_index.folders(['arc_easy'])"
    check = f"{code}; print([name for name in ('torch', 'lm_eval', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "[]\n"
