"""Settings that no task reads are refused before anything runs, as the tasks' files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import EvalConfig
from sft.errors import ConfigError
from sft.stages.task_checks import check_task_settings


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "bare.yaml").write_text("task: bare\nnum_fewshot: 0\noutput_type: generate_until\n")
    (tmp_path / "chosen.yaml").write_text("include: bare.yaml\ntask: chosen\noutput_type: multiple_choice\n")
    (tmp_path / "shown.yaml").write_text("task: shown\noutput_type: multiple_choice\n")
    (tmp_path / "all.yaml").write_text("group: all_bare\ntask: [bare, {task: shown, num_fewshot: 0}]\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tasks": ["bare"], "num_fewshot": 5}, "eval.num_fewshot=5: does nothing: bare says num_fewshot: 0 itself"),
        ({"tasks": ["bare", "chosen"], "num_fewshot": 5}, "each task says num_fewshot: 0 itself"),
        ({"tasks": ["all_bare"], "num_fewshot": 1}, "each task says num_fewshot: 0 itself"),
        ({"tasks": ["bare", "shown"], "num_fewshot": 5}, None),
        ({"tasks": ["bare"], "num_fewshot": 0}, None),
        ({"tasks": ["bare"], "num_fewshot": 5, "enabled": False}, None),
        ({"tasks": ["arc_easy"], "num_fewshot": 5}, None),
        (
            {"tasks": ["shown", "chosen"], "gen_kwargs": {"temperature": 1}},
            r"eval.gen_kwargs=\{'temperature': 1\}: does nothing: no task of eval.tasks has texts written; leave",
        ),
        ({"tasks": ["arc_easy"], "gen_kwargs": {"temperature": 1}}, "no task of eval.tasks has texts written"),
        ({"tasks": ["all_bare"], "gen_kwargs": {"temperature": 1}}, None),
        ({"tasks": ["squadv2"], "gen_kwargs": {"temperature": 1}}, None),  # a class of Python
    ],
)
def test_what_no_task_reads_is_refused(settings: dict[str, Any], problem: str | None, own: str) -> None:
    cfg = EvalConfig(include_path=own, **settings)
    if problem is None:
        check_task_settings(cfg)
    else:
        with pytest.raises(ConfigError, match=problem):
            check_task_settings(cfg)
