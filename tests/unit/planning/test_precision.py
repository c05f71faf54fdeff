"""What `training.precision=auto` is on this machine's CPU: timed once, kept, and the same from then on."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.adapters.os import machine, matmul_timing
from sft.config.schema import Precision, RunConfig
from sft.errors import StageError
from sft.planning import precision
from sft.planning.precision import CpuPrecision, choose_cpu_precision, measure_cpu
from tests.support.configs import composed

LARGE = ("training.precision=auto", "model=scratch", "model.scratch.hidden_size=512", "model.scratch.vocab_size=8000")


class Clock:
    """A child that has timed what a test says."""

    def __init__(self) -> None:
        self.bf16, self.requests = 0.5, list[dict[str, Any]]()

    def __call__(self, module: str, request: dict[str, Any], *, folder: Path, what: str) -> Mapping[str, Any]:
        folder.mkdir(exist_ok=True)
        self.requests.append(request)
        seconds = {"fp32": 1.0, "bf16": self.bf16}
        return {"rows": 64, "training": seconds}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the child that times; torch counts as installed."""
    made = Clock()
    monkeypatch.setattr(precision, "run_module", made)
    monkeypatch.setattr(precision, "_torch_version", lambda: "2.13")
    monkeypatch.setattr(machine, "gpus", lambda: ())
    return made


def config(run_root: Path, *overrides: str) -> RunConfig:
    return composed(*LARGE, f"run_root={run_root}", *overrides)


@pytest.mark.parametrize(
    ("bf16", "shown", "chosen"),
    [
        (0.2, "0.20", Precision.bf16),
        (0.89, "0.89", Precision.bf16),
        (0.91, "0.91", Precision.fp32),
        (1.8, "1.8", Precision.fp32),
    ],
)
def test_bf16_is_taken_where_it_wins_by_more_than_a_tenth(
    bf16: float, shown: str, chosen: Precision, clock: Clock, tmp_path: Path
) -> None:
    clock.bf16 = bf16
    found = choose_cpu_precision(config(tmp_path))
    assert found is not None
    assert found.precision is chosen
    assert found.reason == f"timed here: the model's matrix products take 1.0 s in fp32, {shown} s in bf16 on a core"


def test_what_was_timed_once_is_read_whatever_the_machine_would_say_now(clock: Clock, tmp_path: Path) -> None:
    first = choose_cpu_precision(config(tmp_path))
    clock.bf16 = 2.0
    assert choose_cpu_precision(config(tmp_path)) == first
    assert len(clock.requests) == 1


@pytest.mark.parametrize("other", ["model.scratch.hidden_size=1024", "the cpu", "torch"])
def test_other_shapes_another_cpu_or_torch_are_timed_for_themselves(
    other: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_cpu_precision(config(tmp_path))
    monkeypatch.setattr(machine, "cpu", lambda: "another" if other == "the cpu" else "this")
    choose_cpu_precision(config(tmp_path))
    monkeypatch.setattr(precision, "_torch_version", lambda: "3" if other == "torch" else "2.13")
    choose_cpu_precision(config(tmp_path, *([other] if "=" in other else [])))
    assert len(clock.requests) == (2 if other == "the cpu" else 3)


def test_all_products_of_a_model_are_timed(clock: Clock, tmp_path: Path) -> None:
    choose_cpu_precision(config(tmp_path, "model.scratch.intermediate_size=1000", "model.scratch.num_hidden_layers=3"))
    [request] = clock.requests
    assert [512, 1000, 6.0] in [list(matmul) for matmul in request["matmuls"]]  # the gate too
    assert [1000, 512, 3] in [list(matmul) for matmul in request["matmuls"]]
    assert [512, 8000, 1.0] in [list(matmul) for matmul in request["matmuls"]]


@pytest.mark.parametrize(
    ("override", "precision_and_reason"),
    [
        ("training.precision=bf16", None),
        ("training.launcher.num_workers=2", (Precision.fp32, "several machines must agree")),
        ("model.scratch.hidden_size=64", (Precision.fp32, "the faster one for a model of under 1 million")),
    ],
)
def test_where_something_else_decides_nothing_is_timed(
    override: str, precision_and_reason: tuple[Precision, str] | None, clock: Clock, tmp_path: Path
) -> None:
    overrides = (override, "model.scratch.vocab_size=400", "training.launcher.procs_per_worker=1")
    found = choose_cpu_precision(config(tmp_path, *overrides))
    assert clock.requests == []
    if precision_and_reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.precision is precision_and_reason[0]
        assert found.reason.startswith(precision_and_reason[1])


def test_an_architecture_whose_shapes_are_not_known_is_timed_by_a_typical_layer(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    cfg = composed(
        "training.precision=auto", "model=hub", f"model.name_or_path={tmp_path}", f"run_root={tmp_path / 'runs'}"
    )
    found = choose_cpu_precision(cfg)
    assert found is not None
    assert "typical matrix products" in found.reason


def test_without_torch_nothing_is_timed(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_torch_version", lambda: None)
    found = choose_cpu_precision(config(tmp_path))
    assert found == CpuPrecision(precision=Precision.fp32, reason="torch is not installed here, so nothing was timed")
    assert clock.requests == []


def test_two_runs_at_once_time_once(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        time.sleep(0.2)
        return clock(*args, **kwargs)

    monkeypatch.setattr(precision, "run_module", slow)
    threads = [threading.Thread(target=choose_cpu_precision, args=(config(tmp_path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clock.requests) == 1


def test_a_killed_timing_is_done_again(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any, folder: Path, **_: Any) -> Mapping[str, Any]:
        folder.mkdir()
        (folder / "request.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(precision, "run_module", killed)
    with pytest.raises(KeyboardInterrupt):
        choose_cpu_precision(config(tmp_path))
    monkeypatch.setattr(precision, "run_module", clock)
    assert choose_cpu_precision(config(tmp_path))
    assert [file.suffix for file in (tmp_path / "timings").iterdir() if not file.name.startswith(".")] == [".json"]


def test_a_run_root_that_can_not_be_written_is_timed_each_time_and_says_so(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "timings").write_text("a file, where the folder would be")
    for _ in range(2):
        found = choose_cpu_precision(config(tmp_path))
        assert found is not None
        assert "not kept" in found.reason
    assert len(clock.requests) == 2


def test_a_timing_that_can_not_be_read_or_kept_is_made_each_time_and_it_is_said(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_cpu(tmp_path, None)
    [file] = (tmp_path / "timings").glob("*.json")
    file.unlink()
    file.mkdir()
    assert "can't be used: Is a directory" in measure_cpu(tmp_path, None).note

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file.rmdir()
    monkeypatch.setattr(precision, "write_json", full)
    assert "can't be used: No space left on device" in measure_cpu(tmp_path, None).note


@pytest.mark.parametrize("content", [b'{"rows": 3', b'"\xff"', b"[" * 9999], ids=["cut", "bytes", "deep"])
def test_a_file_that_is_not_a_timing_is_named(content: bytes, clock: Clock, tmp_path: Path) -> None:
    choose_cpu_precision(config(tmp_path))
    [file] = (tmp_path / "timings").glob("*.json")
    file.write_bytes(content)
    with pytest.raises(StageError, match=r"timings/\w+\.json: not a timing .*\n  try: rm "):
        choose_cpu_precision(config(tmp_path))


@pytest.mark.slow
def test_this_machine_is_timed_in_a_child_and_the_answer_is_kept(tmp_path: Path) -> None:
    timing = measure_cpu(tmp_path, None)
    assert measure_cpu(tmp_path, None) == timing
    assert set(timing.training) == {"fp32", "bf16"}
    assert all(value > 0 for value in timing.training.values())
    assert 64 <= timing.rows <= precision.CPU_TOKENS


@pytest.mark.parametrize(("bf16", "rounds"), [(0.1, 1), (1.2, 3), (20.0, 1)])
def test_rounds_that_would_change_nothing_are_not_timed(
    bf16: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def seconds(_rows: int, _wide: int, _out: int, dtype: torch.dtype) -> dict[str, float]:
        timed.append(dtype)
        return {"forward": 1.0 if dtype == torch.float32 else bf16, "backward": 0.0, "casts": 0.0}

    monkeypatch.setattr(matmul_timing, "_seconds", seconds)
    monkeypatch.setattr(matmul_timing, "_SECONDS", 0.0)
    answer = matmul_timing.time_matmuls({"matmuls": [(64, 64, 2.0)], "tokens": 64})
    assert timed == [torch.float32, torch.bfloat16] * rounds
    assert answer["training"] == {"fp32": 2.0, "bf16": 2 * bf16}


@pytest.mark.slow
def test_a_timing_that_fails_says_which_setting_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CHILD", "sft.no_such_module")
    with pytest.raises(StageError, match=r"try: training\.precision=fp32 or bf16"):
        measure_cpu(tmp_path, None)
    assert list((tmp_path / "timings").glob("*.json")) == []
