"""What a recipe's own tasks read outside of their folder counts for their digest, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.evaluation import task_files
from sft.adapters.evaluation.task_files import further
from sft.config.schema import EvalConfig
from sft.errors import ConfigError
from sft.files import sha256_file
from sft.stages.evaluate import tasks_version

TASK = "task: mine\ndataset_path: {path}\ninclude: {include}\ndataset_kwargs:\n  data_files: {{test: {data}}}\n"


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task whose data, base and dataset lie beside its folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("tasks", "local", "parts", "tasks/logs"):
        (tmp_path / name).mkdir()
    for name in (
        "outside.jsonl",
        "base.yml",
        "local/rows.json",
        "parts/a.jsonl",
        "parts/b.jsonl",
        "tasks/logs/x.jsonl",
    ):
        (tmp_path / name).write_text("{}")
    (tmp_path / "tasks" / "inside.jsonl").write_text("{}")
    return tmp_path / "tasks"


def write(tasks: Path, data: str = "inside.jsonl", path: str = "json", include: str = "[]") -> None:
    (tasks / "mine.yaml").write_text(TASK.format(data=data, path=path, include=include))


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ({"data": "../outside.jsonl"}, "outside.jsonl"),
        ({"data": "[inside.jsonl, ../parts/*.jsonl]"}, "parts/b.jsonl"),
        ({"data": "logs/x.jsonl"}, "tasks/logs/x.jsonl"),
        ({"path": "./local"}, "local/rows.json"),
        ({"include": "../base.yml"}, "base.yml"),
    ],
)
def test_the_digest_of_tasks_changes_with_each_file_that_they_read(
    written: dict[str, str], changed: str, tasks: Path
) -> None:
    write(tasks, **written)
    cfg = EvalConfig(tasks=["mine"], include_path=str(tasks))
    before = tasks_version(cfg)
    assert tasks_version(cfg) == before
    (tasks.parent / changed).write_text('{"a": 1}')
    assert tasks_version(cfg) != before


def test_files_of_the_folder_are_counted_once_and_addresses_and_absent_files_not_at_all(tasks: Path) -> None:
    (tasks / "logs" / "x.jsonl").unlink()
    write(tasks, data="[inside.jsonl, 'https://host/rows.jsonl', ../nowhere.jsonl]")
    assert further(tasks) == {}
    (tasks / "link.jsonl").symlink_to(tasks.parent / "outside.jsonl")
    write(tasks, data="../outside.jsonl")
    assert further(tasks) == {}  # the folder's digest reads through the link
    (tasks / "link.jsonl").unlink()
    assert further(tasks) == {"read: ../outside.jsonl": sha256_file(tasks.parent / "outside.jsonl")}


def test_a_folder_of_too_many_files_is_refused(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "_MOST_FILES", 1)
    write(tasks, path="./parts")
    with pytest.raises(
        ConfigError, match=r"eval\.include_path=.*: reads the folder parts, which has more than 1 files"
    ):
        tasks_version(EvalConfig(tasks=["mine"], include_path=str(tasks)))
