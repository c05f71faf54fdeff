"""vLLM in an environment of its own: a stand-in of the same contract always, the real one where there is one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation import vllm_server
from sft.adapters.evaluation.vllm_server import VllmSettings, serving
from sft.adapters.os import interpreter
from sft.artifacts import DatasetArtifact, EvalReport, ModelArtifact
from sft.config.compose import shipped
from sft.config.schema import EvalBackend, EvalConfig, HoldoutConfig, VllmConfig
from sft.errors import ConfigError, StageError
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, HeldOutSet, evaluate
from sft.stages.scoring import vllm_version
from tests.support import vllm
from tests.support.evaluating import writing_task

pytestmark = pytest.mark.slow
REAL = os.environ.get("SFT_TEST_VLLM_PYTHON", "")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vllm.environment(tmp_path_factory.mktemp("vllm") / "env")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks on the same rows: one of likelihoods, one of texts."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("spell_numbers.yaml", "spell_numbers.jsonl"):
        (folder / name).write_bytes((shipped("recipes") / "tasks" / name).read_bytes())
    (folder / "write.yaml").write_text(writing_task(12))
    return folder


def settings(tasks: Path, python: Path | None, **changes: Any) -> EvalConfig:
    usual = {
        "tasks": ["spell_numbers", "write"],
        "include_path": str(tasks),
        "apply_chat_template": True,
        "limit": 8,
        "holdout": HoldoutConfig(enabled=False),
    }
    if python is not None:
        usual |= {"backend": EvalBackend.vllm, "vllm": VllmConfig(python=str(python), startup_seconds=180)}
    return EvalConfig(**(usual | changes))


def run(cfg: EvalConfig, model: Path, data: DatasetArtifact, out: Path) -> EvalReport:
    out.mkdir()
    sets = (HeldOutSet(name="holdout", dataset=data),) if cfg.holdout.enabled else ()
    inputs = EvaluateInputs(model_dir=model, model_digest="m", trust_remote_code=False, held_out=sets)
    return evaluate(cfg, inputs, out, Progress(quiet=True))


def asked(out: Path, task: str) -> list[Any]:
    """Return what lm-eval asked, and what came back."""
    [samples] = out.glob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return [(row["arguments"], row["resps"]) for row in rows]


def likelihoods(out: Path) -> list[tuple[Any, float, str]]:
    """Return each prompt with its continuation, the logarithm of its likelihood, and whether it is the likeliest."""
    return [
        (prompt, float(value), str(is_greedy))
        for prompts, answers in asked(out, "spell_numbers")
        for prompt, ((value, is_greedy),) in zip(prompts.values(), answers, strict=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize("held_out", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_the_same_tasks_have_the_same_scores_and_held_out_samples_come_after(
    held_out: bool, stand_in: Path, tasks: Path, tiny_model: ModelArtifact, tiny_data: DatasetArtifact, tmp_path: Path
) -> None:
    holdout = HoldoutConfig(enabled=held_out, generate=False, limit=3)
    ours = run(settings(tasks, stand_in, holdout=holdout), tiny_model.model_dir, tiny_data, tmp_path / "vllm")
    theirs = run(settings(tasks, None, holdout=holdout), tiny_model.model_dir, tiny_data, tmp_path / "hf")
    for mine, other in zip(ours.scores, theirs.scores, strict=True):
        assert mine == dataclasses.replace(other, value=pytest.approx(other.value), stderr=pytest.approx(other.stderr))
    assert (ours.task_data, ours.task_versions) == (theirs.task_data, theirs.task_versions)
    assert [prompt for prompt, _ in asked(tmp_path / "vllm", "write")] == [
        prompt for prompt, _ in asked(tmp_path / "hf", "write")
    ]
    assert likelihoods(tmp_path / "vllm") == [
        (prompt, pytest.approx(value, abs=1e-4), is_greedy) for prompt, value, is_greedy in likelihoods(tmp_path / "hf")
    ]
    log = (tmp_path / "vllm" / "logs" / "vllm.txt").read_text()
    assert "'--dtype', 'float32'" in log  # as the model is stored


@pytest.mark.exhaustive
def test_a_server_that_ends_in_the_middle_ends_the_evaluation_with_its_last_lines(
    stand_in: Path,
    tasks: Path,
    tiny_model: ModelArtifact,
    tiny_data: DatasetArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_DIES", "1")
    with pytest.raises(StageError, match="vLLM ended with status 9; its last lines:") as caught:
        run(settings(tasks, stand_in), tiny_model.model_dir, tiny_data, tmp_path / "out")
    assert "RuntimeError: the engine is lost" in str(caught.value)
    assert not (tmp_path / "out" / "report.json").exists()


def served(python: Path, **changes: Any) -> VllmSettings:
    usual = {
        "python": python,
        "model_dir": Path("nowhere"),
        "trust_remote_code": False,
        "dtype": "float32",
        "seed": 1,
        "max_model_len": 64,
        "gpu_memory_utilization": None,
        "tensor_parallel_size": 1,
        "enforce_eager": False,
        "startup_seconds": 60,
    }
    return VllmSettings(**(usual | changes))


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the ids of the server and its engine; the stand-in loads no model."""
    monkeypatch.setenv("STAND_IN_WITHOUT_MODEL", "1")
    monkeypatch.setenv("STAND_IN_PIDS", str(tmp_path / "pids"))
    return tmp_path / "pids"


def alive(file: Path) -> list[int]:
    """Return which of these processes are at work; one that nobody has waited for is not."""

    def is_at_work(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return [pid for pid in map(int, file.read_text().split()) if is_at_work(pid)]


def test_a_server_wants_its_key_and_leaves_no_process_behind(stand_in: Path, processes: Path, tmp_path: Path) -> None:
    with serving(served(stand_in), tmp_path / "log", lambda _: None) as server:
        assert server.max_model_len == 64
        assert len(alive(processes)) == 2
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{server.address}/models")
        server.check()
    assert alive(processes) == []
    assert server.key not in (tmp_path / "log").read_text()
    assert server.key not in repr(server)
    with pytest.raises(StageError, match=r"eval\.backend=vllm: vLLM"):
        server.check()


def test_of_this_environment_a_server_gets_its_own_settings_and_none_that_change_numbers_unseen(
    stand_in: Path, processes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASHINFER")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with serving(served(stand_in), tmp_path / "log", lambda _: None):
        assert processes.exists()
    has = "of its environment ['VLLM_API_KEY', 'VLLM_ATTENTION_BACKEND', 'VLLM_NO_USAGE_STATS']"
    assert has in (tmp_path / "log").read_text()
    assert vllm_server.own_settings(["VLLM_API_KEY", "HOME", "VLLM_USE_V1"]) == ["VLLM_USE_V1"]


def test_a_server_that_does_not_start_says_why(
    stand_in: Path, processes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "a GPU")
    with (
        pytest.raises(StageError, match=r"vLLM ended with status 3; its last lines:\n.*\n.*no such thing as a GPU"),
        serving(served(stand_in), tmp_path / "log", lambda _: None),
    ):
        pass
    assert alive(processes) == []


def test_a_server_that_does_not_answer_in_time_is_given_up(
    stand_in: Path, processes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_HANGS", "1")
    with (
        pytest.raises(StageError, match=r"did not answer in 2 s[\s\S]*raise eval\.vllm\.startup_seconds"),
        serving(served(stand_in, startup_seconds=2), tmp_path / "log", lambda _: None),
    ):
        pass
    assert alive(processes) == []


@pytest.mark.parametrize("who", ["parent", "guard", "server"])
def test_whoever_is_killed_nothing_is_left(who: str, stand_in: Path, processes: Path, tmp_path: Path) -> None:
    """kill -9 leaves nobody the time to tidy up."""
    code = (
        "import sys, time; from pathlib import Path; from tests.integration.test_vllm import served, serving\n"
        f"with serving(served(Path({str(stand_in)!r})), Path({str(tmp_path / 'log')!r}), lambda _: None) as server:\n"
        "    print(server.process.pid, flush=True)\n"
        "    while server.process.poll() is None: time.sleep(0.1)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        guard = int(parent.stdout.readline())
        assert len(alive(processes)) == 2
        victims = {"parent": parent.pid, "guard": guard, "server": alive(processes)[0]}
        os.kill(victims[who], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while alive(processes):
            assert time.monotonic() < deadline, "something is left"
            time.sleep(0.05)
        parent.kill()


def test_a_version_is_asked_of_the_environment_itself(stand_in: Path, tasks: Path) -> None:
    assert vllm_version(settings(tasks, stand_in)) == f"vllm {vllm.VERSION}"
    assert vllm_version(settings(tasks, None)) == ""


def test_an_environment_without_vllm_is_refused_at_plan_time(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = vllm.environment(tmp_path / "env", with_vllm=False)
    (tmp_path / "no-python").write_text("#!/bin/sh\necho not python >&2; exit 1\n")
    (tmp_path / "no-python").chmod(0o755)
    (tmp_path / "slow").write_text("#!/bin/sh\nsleep 9\n")
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setattr(interpreter, "_ASK_SECONDS", 2)
    for path, message in {
        tmp_path / "slow": "does not say in time which vLLM it has",
        python: rf"eval\.vllm\.python={python}: its environment has no vLLM; {python} -m pip install vllm",
        tmp_path / "absent": r"can't be run \(No such file or directory",
        tmp_path / "no-python": r"is no interpreter of Python 3 \(not python\)",
    }.items():
        with pytest.raises(ConfigError, match=message):
            vllm_version(settings(tasks, path))


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not REAL, reason="SFT_TEST_VLLM_PYTHON names no interpreter with vLLM")
def test_a_real_vllm_agrees_with_transformers_within_the_error(
    smollm2: Path, tasks: Path, tiny_data: DatasetArtifact, tmp_path: Path
) -> None:
    """In fp32, where rounding is no excuse, also likelihood by likelihood; and nothing of vLLM is left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tmp_path / "fp32"
    AutoModelForCausalLM.from_pretrained(smollm2, dtype="float32").save_pretrained(model)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(model)
    real = VllmConfig(python=REAL, max_model_len=1024, enforce_eager=True)
    changes = {"limit": 12, "num_fewshot": 0}
    ours = run(settings(tasks, Path(REAL), vllm=real, **changes), model, tiny_data, tmp_path / "vllm")
    theirs = run(settings(tasks, None, **changes), model, tiny_data, tmp_path / "hf")
    assert vllm_server.installed(Path(REAL))
    for mine, other in zip(ours.scores, theirs.scores, strict=True):
        assert mine.name == other.name
        assert abs(mine.value - other.value) <= (other.stderr or 0.0)
    pairs = [*zip(likelihoods(tmp_path / "vllm"), likelihoods(tmp_path / "hf"), strict=True)]
    assert len(pairs) == 4 * 12
    for (prompt, value, _), (other_prompt, other_value, _) in pairs:
        assert prompt == other_prompt
        assert value == pytest.approx(other_value, abs=0.01)
    left = subprocess.run(["pgrep", "-f", str(model)], capture_output=True, text=True, check=False)
    assert left.stdout == ""
