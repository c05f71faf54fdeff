"""What torchrun is started with, and what it must leave."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.layout import SETTINGS
from sft.adapters.instructlab.settings import LaunchSettings, Nodes
from sft.adapters.instructlab.torchrun import (
    _environment,
    _for_compiled_code,
    checkpoint,
    clear,
    supervise_node,
)
from sft.errors import StageError
from sft.files import write_json


def test_a_run_without_the_checkpoint_of_its_last_sample_has_failed(tmp_path: Path) -> None:
    (tmp_path / "hf_format" / "samples_190").mkdir(parents=True)
    with pytest.raises(StageError, match=r"without a checkpoint after 200 samples \(saved: samples_190\)"):
        checkpoint(tmp_path, 200)


def test_malloc_takes_huge_pages_unless_the_machine_or_the_recipe_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main: Any = SimpleNamespace(output_dir="out", trust_remote_code=False)

    def tunables(env: dict[str, str]) -> str:
        settings = LaunchSettings(num_processes=1, nodes=Nodes(), env=env, stall_timeout_seconds=1)
        return _environment(settings, main)["GLIBC_TUNABLES"]

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert tunables({}) == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    assert tunables({}) == "glibc.malloc.arena_max=2"
    assert tunables({"GLIBC_TUNABLES": ""}) == ""


@pytest.mark.parametrize(("gpus", "visible"), [(None, None), ((), ""), (("3", "1"), "3,1"), (("MIG-c7",), "MIG-c7")])
def test_ranks_see_the_gpus_that_were_counted_for_them(gpus: tuple[str, ...] | None, visible: str | None) -> None:
    main: Any = SimpleNamespace(output_dir="out", trust_remote_code=False)
    settings = LaunchSettings(num_processes=1, nodes=Nodes(), env={}, stall_timeout_seconds=1, gpus=gpus)
    environment = _environment(settings, main)
    assert environment.get("CUDA_VISIBLE_DEVICES") == visible
    assert environment.get("CUDA_DEVICE_ORDER") == (None if gpus is None else "PCI_BUS_ID")


def test_what_is_compiled_lies_in_a_private_folder_until_the_ranks_end_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = LaunchSettings(num_processes=1, nodes=Nodes(), env={}, stall_timeout_seconds=1)
    write_json(tmp_path / SETTINGS, {"options": {"compile_layers": False}})
    with _for_compiled_code(settings, tmp_path) as variables:
        assert variables == {}
    write_json(tmp_path / SETTINGS, {"options": {"compile_layers": True}})
    with _for_compiled_code(settings, tmp_path) as variables:
        folder = Path(variables[name])
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
        assert int(variables["TORCHINDUCTOR_COMPILE_THREADS"]) >= 1
    assert not folder.exists()
    monkeypatch.setenv(name, "/of/this/process")
    with _for_compiled_code(settings, tmp_path) as variables:
        assert variables[name] == "/of/this/process"
    of_recipe = LaunchSettings(num_processes=1, nodes=Nodes(), env={name: "/mine"}, stall_timeout_seconds=1)
    with _for_compiled_code(of_recipe, tmp_path) as variables:
        assert variables[name] == "/mine"


def test_ranks_get_no_variable_that_changes_a_training_and_stands_in_no_key_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, meant = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "NVIDIA_TF32_OVERRIDE"
    for name in (foreign, meant):
        monkeypatch.setenv(name, "1")
    ask = f"import os, sys; print([name in os.environ for name in ({foreign!r}, {meant!r})]); sys.exit(3)"
    monkeypatch.setattr("sft.adapters.instructlab.torchrun._torchrun", lambda *_: ["-c", ask])
    clear(tmp_path)
    write_json(tmp_path / SETTINGS, {"options": {"compile_layers": False}})
    settings = LaunchSettings(num_processes=1, nodes=Nodes(), env={meant: "0"}, stall_timeout_seconds=60)
    main: Any = SimpleNamespace(output_dir="out", trust_remote_code=False, num_epochs=1)
    said: list[str] = []
    with pytest.raises(StageError):
        supervise_node(main, settings, logs=tmp_path, watch=lambda _: None, say=said.append)
    [line] = [text for text in said if "not passed to the ranks" in text]
    assert foreign in line
    assert meant not in line
