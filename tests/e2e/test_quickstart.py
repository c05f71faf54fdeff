"""The quickstart as a person runs it: a recipe in, a better model in the registry out, and everything recorded."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.files import sha256_file
from tests.servers.judge import JudgeServer, serving
from tests.support.command import Answer, records, sft, start, steps

pytestmark = pytest.mark.slow
UNSCORED = ["registry=none", "eval=none"]


@pytest.fixture
def record(done: tuple[Path, Answer]) -> dict[str, Any]:
    path = done[0] / done[1].run / "run.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def started(done: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A folder in which everything before the training is done."""
    for stage in ("dataset", "model", "tokenize"):
        shutil.copytree(done[0] / "runs" / "store" / stage, tmp_path / "runs" / "store" / stage)
    return tmp_path


def scores(record: dict[str, Any], step: str) -> dict[str, float]:
    return {f"{s['task']}.{s['metric']}": s["value"] for s in steps(record)[step]["facts"]["scores"]}


def weights(root: Path) -> str:
    [file] = root.glob("runs/store/train/*/model/model.safetensors")
    return sha256_file(file)


def workers(root: Path) -> list[str]:
    """Processes of a training under a folder."""
    found = subprocess.run(["pgrep", "-f", f"instructlab.*{root}"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_model_that_knew_nothing_spells_numbers(done: tuple[Path, Answer], record: dict[str, Any]) -> None:
    assert done[1].status == 0, done[1].err
    before, after = scores(record, "evaluate:base"), scores(record, "evaluate:tuned")
    assert before["holdout.exact_match"] < 0.05
    assert after["holdout.exact_match"] > 0.90
    assert after["spell_numbers.acc"] > 0.90 > 0.5 > before["spell_numbers.acc"]
    assert after["holdout.loss"] < before["holdout.loss"]


def test_the_end_says_where_everything_is_and_the_scores(done: tuple[Path, Answer], record: dict[str, Any]) -> None:
    cwd, answer = done
    places = dict(line.split(maxsplit=1) for line in answer.out.splitlines()[-8:])
    assert (cwd / places["record"]).name == "run.json"
    assert (cwd / places["model"] / "config.json").is_file()
    page = (cwd / places["page"]).read_text()
    changed = page.partition("Samples that changed most</h2>")[2].partition("</section>")[0]
    assert len(re.findall("<summary>[^<]*, sample ", changed)) == 40  # 20 of the held-out split, 20 of the task
    assert places["registered"].startswith("quickstart version 1 in sqlite:///")
    run = Path(places["record"]).parent
    assert (places["chat"], places["serve"]) == (f"sft chat {run}", f"sft serve {run}")
    assert places["continue"] == f"sft run RECIPE model.name_or_path={run}/model"
    assert (cwd / run / "model").resolve() == (cwd / places["model"]).resolve()
    assert re.search(r"^holdout\.exact_match +0\.0000 → ", answer.out, re.MULTILINE)


def test_the_log_of_a_run_tells_it_with_times(done: tuple[Path, Answer]) -> None:
    log = done[0] / done[1].run / "run.log"
    lines = [re.sub(r"^\d{4}-\d\d-\d\d [\d:,]{12} \d+ ", "", line) for line in log.read_text().splitlines()]
    assert re.fullmatch(r"INFO sft.runner.execute: sft [\w.]+, Python 3[\d.]+: sft run quickstart", lines[0])
    told = [line.removeprefix("INFO sft.told: ") for line in lines if line.startswith("INFO sft.told: ")]
    assert any(line.startswith("✓ train: ") for line in told)
    assert any(re.match(r"  train: step \d+/172, epoch", line) for line in told)
    assert any(re.match("INFO sft.runner.execute: evaluate:tuned ended after .* s: ", line) for line in lines)


def test_what_was_learned_is_clearly_better_and_told_wherever_scores_are(
    done: tuple[Path, Answer], record: dict[str, Any]
) -> None:
    changes = steps(record)["compare"]["facts"]["changes"]
    assert [change["verdict"] for change in changes] == ["better"] * 7
    assert "7 better (" in done[1].out
    listed = sft("models", cwd=done[0])
    assert listed.out.count(", better (") == 7


def test_the_record_holds_what_made_the_model(done: tuple[Path, Answer], record: dict[str, Any]) -> None:
    assert record["status"] == "done"
    assert record["command"] == ["sft", "run", "quickstart"]
    assert record["config"]["training"]["learning_rate"] == 0.005
    assert {"torch", "instructlab-training", "lm-eval", "mlflow"} <= set(record["versions"])
    outputs = {name: step["output"] for name, step in steps(record).items()}
    for step in record["steps"]:
        assert step["status"] == "done"
        assert step["inputs"] == {name: outputs[name] for name in step["inputs"]}


def test_every_digest_of_the_record_can_be_recomputed(record: dict[str, Any]) -> None:
    for step in record["steps"]:
        assert step["files"]
        for name, digest in step["files"].items():
            assert sha256_file(Path(step["path"]) / name) == digest
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(step["files"].items()))
        assert hashlib.sha256(lines.encode()).hexdigest() == step["output"]


def test_mlflow_holds_the_version_with_its_provenance(done: tuple[Path, Answer], record: dict[str, Any]) -> None:
    code = (
        "import json, sys; from mlflow import MlflowClient; client = MlflowClient(sys.argv[1], sys.argv[1]);"
        "version = client.get_model_version('quickstart', '1'); run = client.get_run(version.run_id);"
        "print(json.dumps([version.tags, run.data.params, run.data.metrics]))"
    )
    uri = f"sqlite:///{done[0]}/runs/mlflow.db"
    import sys

    answer = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=True)
    tags, parameters, metrics = json.loads(answer.stdout.splitlines()[-1])
    assert tags["dataset.digest"] == steps(record)["dataset"]["output"]
    assert parameters["training.learning_rate"] == "0.005"
    assert metrics["tuned.holdout.exact_match"] > 0.9


def test_the_same_command_again_does_nothing_and_says_so(done: tuple[Path, Answer]) -> None:
    def state() -> dict[str, int]:
        files = [f for f in (done[0] / "runs").rglob("*") if f.is_file() and ".locks" not in f.parts]
        return {str(f): f.stat().st_mtime_ns for f in files if f.name != ".lock"}

    before = state()
    answer = sft("run", "quickstart", cwd=done[0])
    assert answer.status == 0
    assert answer.out.startswith("nothing to do: this run was done at ")
    assert state() == before


@pytest.mark.exhaustive
def test_a_change_to_eval_scores_and_registers_again_only(done: tuple[Path, Answer]) -> None:
    answer = sft("run", "quickstart", "eval.tasks=[]", "eval.holdout.limit=50", cwd=done[0])
    assert answer.status == 0, answer.err
    made = [line.split()[1].rstrip(":") for line in answer.out.splitlines() if line.startswith("✓")]
    assert made == ["evaluate:base", "evaluate:tuned", "compare", "package", "register"]


def test_a_missed_gate_keeps_the_model_from_the_registry_and_exits_with_3(done: tuple[Path, Answer]) -> None:
    gates = ["eval.gates.holdout.loss=< baseline", "eval.gates.spell_numbers.acc=>= baseline + 0.95"]
    answer = sft("run", "quickstart", *gates, cwd=done[0])
    assert answer.status == 3
    assert "✓" not in answer.out  # nothing is scored again for a gate
    assert "the tuned model misses 1 gate (eval.gates), so it is not registered" in answer.err
    [page] = [line.split()[1] for line in answer.out.splitlines() if line.startswith("page ")]
    assert "misses 1 gate" in (done[0] / page).read_text()
    assert "not >= baseline + 0.95 = 1." in answer.err
    [record] = [one for one in records(done[0] / "runs") if one["config"]["eval"]["gates"]]
    found = {name: step["status"] for name, step in steps(record).items()}
    assert (found["gates"], found["package"], found["register"]) == ("failed", "pending", "pending")
    asked = ["eval.gates.spell_numbers.acc=>= baseline and improvement > 0.3", "eval.no_regression=[holdout]"]
    passing = sft("run", "quickstart", *asked, "registry=none", cwd=done[0])
    assert passing.status == 0, passing.err
    [card] = [path for path in done[0].glob("runs/store/package/*/model/README.md") if "passed" in path.read_text()]
    assert "- spell_numbers.acc is" in card.read_text()
    assert "- spell_numbers.acc improves by +0." in card.read_text()


@pytest.mark.exhaustive
def test_the_model_of_an_epoch_is_scored_from_what_the_training_kept(done: tuple[Path, Answer]) -> None:
    answer = sft("run", "quickstart", "eval.every_epochs=2", "eval.epoch_tasks=[spell_numbers]", cwd=done[0])
    assert answer.status == 0, answer.err
    made = [line.split()[1].rstrip(":") for line in answer.out.splitlines() if line.startswith("✓")]
    assert made == ["evaluate:epoch-2", "package", "register"]
    [record] = [one for one in records(done[0] / "runs") if one["config"]["eval"]["every_epochs"]]
    found = scores(record, "evaluate:epoch-2")
    assert found.keys() == scores(record, "evaluate:tuned").keys()
    before, after = (scores(record, f"evaluate:{which}")["holdout.loss"] for which in ("base", "tuned"))
    assert before > found["holdout.loss"] > after
    card = (Path(steps(record)["package"]["path"]) / "model" / "README.md").read_text()
    for text in (card, answer.out):
        assert f"{found['holdout.loss']:.4f} ± " in text
    assert "| score | epoch 2 | last epoch |" in card


@pytest.mark.exhaustive
def test_a_judge_compares_what_was_scored_and_says_so_everywhere(done: tuple[Path, Answer]) -> None:
    """It prefers the answer with more words of the language that the tuned model has learned."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def verdict(a: str, b: str) -> str:
        first, second = (sum(word in words for word in text.split()) for text in (a, b))
        return f"[[{'TIE' if first == second else 'A' if first > second else 'B'}]]"

    with serving(JudgeServer(verdict)) as server:
        settings = [f"eval.judge.address={server.address}", "eval.judge.model=m", "eval.judge.limit=20"]
        answer = sft("run", "quickstart", *settings, "eval.gates.judge.win_rate=>= 0.9", cwd=done[0])
    assert answer.status == 0, answer.err
    made = [line.split()[1].rstrip(":") for line in answer.out.splitlines() if line.startswith("✓")]
    assert made == ["judge", "gates", "package", "register"]
    [record] = [one for one in records(done[0] / "runs") if one["config"]["eval"]["judge"]["address"]]
    facts = steps(record)["judge"]["facts"]
    assert facts["score"]["value"] > 0.9
    line = f"judge.win_rate {facts['score']['value']:.4f} ± "
    assert line in answer.out
    card = Path(steps(record)["package"]["path"]) / "model" / "README.md"
    assert f"A judge compared its answers with the base model's: {line}" in card.read_text()
    assert steps(record)["register"]["facts"]["metadata"]["tuned.judge.win_rate"] == facts["score"]["value"]


@pytest.mark.exhaustive
def test_a_copied_recipe_runs_where_it_was_copied(started: Path) -> None:
    copied = sft("recipes", "copy", "quickstart", "mine", cwd=started)
    assert copied.out.splitlines()[-1] == "next: sft run mine/quickstart.yaml"
    small = ["training.num_epochs=1", "eval.limit=20", "eval.holdout.limit=20", "registry=none"]
    answer = sft("run", "mine/quickstart.yaml", *small, cwd=started)
    assert answer.status == 0, answer.err
    [record] = records(started / "runs")
    assert record["config"]["eval"]["include_path"] == str(started / "mine" / "tasks")
    assert steps(record)["tokenize"]["reused"]
    assert scores(record, "evaluate:tuned")["spell_numbers.acc"] > 0


def test_a_model_alone_is_scored_as_a_recipe_does(done: tuple[Path, Answer]) -> None:
    model = done[1].out.partition("\nmodel       ")[2].split()[0]
    overrides = ["eval.holdout.limit=20", "eval.tasks=[]"]
    answer = sft("eval", model, *overrides, "--recipe", "quickstart", cwd=done[0])
    assert answer.status == 0, answer.err
    [loss] = [line for line in answer.out.splitlines() if line.startswith("holdout.loss")]
    assert float(loss.split()[1]) < 0.5
    assert "(20 samples)" in loss
    assert "train" not in answer.out
    nothing = sft("eval", model, "eval.tasks=[]", cwd=done[0])
    assert nothing.status == 2
    assert "nothing to score" in nothing.err


@pytest.mark.exhaustive
def test_a_sweep_over_sharding_shares_data_tokens_and_the_base_score(done: tuple[Path, Answer]) -> None:
    sweep = ["-m", "training.fsdp.sharding_strategy=FULL_SHARD,SHARD_GRAD_OP", "training.num_epochs=1"]
    before = {record["run_id"] for record in records(done[0] / "runs")}
    answer = sft("run", "quickstart", *sweep, cwd=done[0])
    assert answer.status == 0, answer.err
    jobs = [record for record in records(done[0] / "runs") if record["run_id"] not in before]
    assert [job["config"]["training"]["fsdp"]["sharding_strategy"] for job in jobs] == ["FULL_SHARD", "SHARD_GRAD_OP"]
    for job in jobs:
        reused = {name for name, step in steps(job).items() if step["reused"]}
        assert {"dataset", "model", "tokenize", "evaluate:base"} <= reused
        assert "train" not in reused
    losses = [steps(job)["train"]["facts"]["final_loss"] for job in jobs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.exhaustive
def test_preempted_and_killed_it_goes_on_to_the_same_weights(done: tuple[Path, Answer], started: Path) -> None:
    whole = "runs/store/.staging/train-*/*/full_state/step_{}"  # 43 steps an epoch
    run = start("run", "quickstart", *UNSCORED, cwd=started)
    wait_for(lambda: list(started.glob(whole.format(43))))
    run.terminate()
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 75
    assert "its full state is saved; the same command continues" in out
    assert workers(started) == []
    [record] = records(started / "runs")
    assert record["status"] == steps(record)["train"]["status"] == "interrupted"

    run = start("run", "quickstart", *UNSCORED, cwd=started)
    wait_for(lambda: list(started.glob(whole.format(86))) + list(started.glob(whole.format(129))))
    assert workers(started)
    run.kill()
    run.communicate()
    wait_for(lambda: not workers(started), 5)

    answer = sft("run", "quickstart", *UNSCORED, cwd=started)
    assert answer.status == 0, answer.err
    assert "resumes after step" in answer.out
    assert weights(started) == weights_of(done[0])


def weights_of(root: Path) -> str:
    """Of the first run in a folder with more than one."""
    files = sorted(root.glob("runs/store/train/*/model/model.safetensors"), key=lambda file: file.stat().st_mtime)
    return sha256_file(files[0])


@pytest.mark.exhaustive
def test_the_same_command_twice_at_once_trains_once(started: Path) -> None:
    command = ["run", "quickstart", *UNSCORED, "training.num_epochs=1"]
    first, second = start(*command, cwd=started), start(*command, cwd=started)
    outputs = [run.communicate(timeout=200)[0] for run in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert sorted("nothing to do" in out for out in outputs) == [False, True]
    assert any("the same run is at work in another process" in out for out in outputs)
    assert len(list(started.glob("runs/store/train/*"))) == 1
    assert not list(started.glob("runs/store/.staging/*"))
