"""What a person is told of the type in which a model answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sft.adapters.os import machine
from sft.config.schema import EvalBackend, EvalConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.scoring import emulated_type, score_model


def model(folder: Path, dtype: str) -> Path:
    """A checkpoint of one weight."""
    size = {"BF16": 2, "F32": 4}[dtype]
    header = json.dumps({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr(machine, "cpu_computes_bf16", lambda: False)


@pytest.mark.usefixtures("plain_cpu")
def test_a_type_that_this_cpu_emulates_is_named(tmp_path: Path) -> None:
    assert emulated_type(EvalConfig(), model(tmp_path, "BF16")) == "bfloat16"
    assert emulated_type(EvalConfig(), model(tmp_path, "F32")) == ""


@pytest.mark.usefixtures("plain_cpu")
def test_nothing_is_said_where_the_recipe_names_a_type_or_another_program_answers(tmp_path: Path) -> None:
    half = model(tmp_path, "BF16")
    assert emulated_type(EvalConfig(model_args={"dtype": "bfloat16"}), half) == ""
    assert emulated_type(EvalConfig(backend=EvalBackend.vllm), half) == ""


@pytest.mark.parametrize("fast", ["gpus", "cpu_computes_bf16"])
@pytest.mark.usefixtures("plain_cpu")
def test_nothing_is_said_where_it_is_fast(fast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, fast, lambda: ("one",))
    assert emulated_type(EvalConfig(), model(tmp_path, "BF16")) == ""


@pytest.mark.slow
def test_what_changes_numbers_and_stands_in_no_key_does_not_reach_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker's log has the environment: Python prints it at the start, told so by a hook in a folder of its own."""
    (tmp_path / "sitecustomize.py").write_text("import os; print('HAS', sorted(os.environ))")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(StageError):  # an empty request
        score_model(EvalConfig(), {"tasks": [], "devices": []}, tmp_path / "logs", Progress(), lambda: None)
    [line] = [text for text in capsys.readouterr().out.splitlines() if "not passed to the evaluation" in text]
    assert "NVIDIA_TF32_OVERRIDE" in line
    log = (tmp_path / "logs" / "log.txt").read_text()
    assert "'PYTHONPATH'" in log
    assert "NVIDIA_TF32_OVERRIDE" not in log
