"""A pod's limits are what it has, not those of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sft.adapters.os import cgroup, machine


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this process's group, two below the root."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "own").write_text("0::/kubepods/pod1\n")
    folder = tmp_path / "kubepods" / "pod1"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("quota", "cpus"), [("400000 100000", 4), ("150000 100000", 2), ("max 100000", 16)])
def test_a_quota_of_cpus_counts(quota: str, cpus: int, group: Path) -> None:
    (group / "cpu.max").write_text(quota)
    assert cgroup.num_cpus() == cpus


def test_a_tighter_group_above_counts(group: Path) -> None:
    (group / "cpu.max").write_text("800000 100000")
    (group.parent / "cpu.max").write_text("200000 100000")
    assert cgroup.num_cpus() == 2


def test_a_limit_of_memory_counts_without_the_files_that_the_kernel_takes_back(group: Path) -> None:
    assert cgroup.free_bytes() is None
    for name, content in (("max", "1000"), ("current", "900"), ("stat", "anon 100\ninactive_file 700\nfile 800")):
        (group / f"memory.{name}").write_text(content)
    assert cgroup.free_bytes() == machine.host_bytes() == 800
    (group.parent / "memory.max").write_text("max")
    assert cgroup.free_bytes() == 800


def test_the_tightest_limit_of_memory_is_all_there_is(group: Path) -> None:
    assert cgroup.limit_bytes() is None
    (group / "memory.max").write_text("max")
    (group.parent / "memory.max").write_text("4096")
    assert cgroup.limit_bytes() == machine.host_total_bytes() == 4096


def test_a_container_that_sees_only_its_own_group_reads_the_root(tmp_path: Path, group: Path) -> None:
    (tmp_path / "own").write_text("0::/../../elsewhere\n")
    (tmp_path / "cpu.max").write_text("300000 100000")
    (group / "cpu.max").write_text("100000 100000")
    assert cgroup.num_cpus() == 3
