"""A finished run's model in another format: read back, scored by the run's gates, and only then called done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft import self_hashed_json
from sft.adapters.export import gguf
from tests.servers.model_registry import ModelRegistryServer
from tests.support import llama_quantize, llmcompressor
from tests.support.command import Answer, sft, sft_in_process

pytestmark = [pytest.mark.slow, pytest.mark.long]
QUICK = ("registry=none", "eval.tasks=[]", "eval.holdout.limit=40")


def records_of(folder: Path) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["steps"]
    return steps


@pytest.fixture(scope="module")
def root(done: tuple[Path, Answer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished quickstart's run root."""
    folder = tmp_path_factory.mktemp("exported")
    subprocess.run(["cp", "-a", done[0] / "runs", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def gated(root: Path) -> str:
    """The folder of the same run with a gate that its model passes, scored on less."""
    before = set(root.glob("runs/quickstart-*"))
    answer = sft("run", "quickstart", *QUICK, "eval.gates.holdout.exact_match=>= 0.5", cwd=root)
    assert answer.status == 0, answer.err
    [folder] = set(root.glob("runs/quickstart-*")) - before
    return str(folder.relative_to(root))


def test_an_export_is_scored_by_the_runs_own_gates(root: Path, gated: str) -> None:
    answer = sft("export", gated, "--to", "gguf", "--type", "q8_0", "--output", "made/q8", cwd=root)
    assert answer.status == 0, answer.err
    assert "outcome     passed" in answer.out
    assert "the same tokens in 312 prompts" in answer.out
    folder = root / "made" / "q8"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "export.json", "quickstart-Q8_0.gguf"]
    assert [path.name for path in folder.parent.iterdir()] == ["q8"]
    record = self_hashed_json.load_checked((folder / "export.json").read_bytes())
    scores = record["scores"]
    assert scores["run"].keys() == scores["export"].keys() == scores["differences"].keys()
    assert scores["export"]["holdout.exact_match"] > 0.9
    assert scores["differences"]["holdout.loss"]["verdict"] != "worse"
    assert scores["scored_otherwise"] == []
    assert [line.startswith("holdout.exact_match is ") for line in record["gates"]["passed"]] == [True]
    run = json.loads((root / gated / "run.json").read_text())
    assert record["source"]["run"] == run["run_id"]

    again = sft_in_process("export", gated, "--to=gguf", "--output", "made/q8", cwd=root)
    assert again.status == 2
    assert "is there already, and nothing is overwritten" in again.err


@pytest.fixture
def ruined(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Exports are read back with the weights from before the training, as if writing had ruined them."""
    export = gguf.export
    [base] = root.glob("runs/store/model/*/config.json")

    def ruin(*arguments: Any, **settings: Any) -> gguf.GgufFile:
        return replace(export(*arguments, **settings), model_dir=base.parent)

    monkeypatch.setattr(gguf, "export", ruin)


def test_an_export_that_misses_a_gate_is_not_kept(root: Path, gated: str, ruined: None) -> None:
    answer = sft_in_process("export", "model", gated, "--to", "gguf", "--output", "failed/q8", cwd=root)
    assert answer.status == 3
    assert "the export misses 1 gate (eval.gates), so it is not kept" in answer.err
    assert list((root / "failed").iterdir()) == []


def test_with_keep_it_is_kept_and_marked(root: Path, gated: str, ruined: None) -> None:
    answer = sft_in_process("export", gated, "--to", "gguf", "--output", "kept/q8", "--keep", cwd=root)
    assert answer.status == 3
    assert "marked as failed" in answer.err
    record = json.loads((root / "kept" / "q8" / "export.json").read_text())
    assert record["outcome"] == "failed"
    assert "**This export failed its gates.**" in (root / "kept" / "q8" / "README.md").read_text()


def test_what_can_be_known_is_said_before_anything_is_written(root: Path, gated: str) -> None:
    asked = [
        (("runs/none", "--to", "gguf"), "no run.json"),
        ((gated, "--to", "gguf", "--type", "q4_k_m", "--llama-quantize", "none"), "/none: is not there"),
        ((gated, "--to", "fp8", "--llama-quantize", "none"), "does nothing: --to fp8 writes no GGUF file"),
        ((gated, "--to", "gguf", "eval.limit=3"), "an export is scored with the run's own settings"),
        ((gated, "--to", "gguf", "--gpus", "2"), "describe a server in a cluster, and --to gguf makes files"),
        ((gated, "--to", "kserve", "--keep"), "does nothing: the run's own files are served"),
        ((gated, "--to", "int4"), "--python: is needed"),
        ((gated, "--to", "int4", "--python", "none"), "/none: can't be run (No such file or directory"),
        ((gated, "--to", "int8", "--calibration-samples", "9"), "does nothing: --to int8 asks no llm-compressor"),
        ((gated, "--to", "onnx"), "invalid choice: 'onnx'"),
        ((str(next(root.glob("runs/store/package/*/model"))), "--to", "gguf"), "needs a run's folder, not a model's"),
    ]
    for arguments, words in asked:
        answer = sft_in_process("export", *arguments, "--output", "never/made", cwd=root)
        assert answer.status != 0
        assert words in answer.err
    assert not (root / "never").exists()


def test_an_ollama_export_has_a_modelfile_beside_the_weights(root: Path, gated: str) -> None:
    answer = sft("export", gated, "--to", "ollama", "--output", "made/ollama", cwd=root)
    assert answer.status == 0, answer.err
    assert "whose template renders 312 prompts as the model's own does" in answer.out
    names = sorted(path.name for path in (root / "made" / "ollama").iterdir())
    assert names == ["Modelfile", "README.md", "export.json", "quickstart-F32.gguf"]
    record = self_hashed_json.load_checked((root / "made" / "ollama" / "export.json").read_bytes())
    assert record["outcome"] == "passed"
    assert record["details"]["largest_weight_difference"] == 0.0
    assert record["scores"]["differences"]["holdout.exact_match"]["difference"] == 0.0


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_eight_bits_are_scored_as_they_are_loaded(root: Path, gated: str, kind: str) -> None:
    answer = sft("export", gated, "--to", kind, "--output", f"made/{kind}", cwd=root)
    assert answer.status == 0, answer.err
    record = self_hashed_json.load_checked((root / "made" / kind / "export.json").read_bytes())
    assert record["outcome"] == "passed"
    assert record["scores"]["export"]["holdout.loss"] != record["scores"]["run"]["holdout.loss"]
    assert "sft.json" not in record["files"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= record["files"].keys()


def test_four_bits_by_another_environment_are_scored(root: Path, gated: str, tmp_path: Path) -> None:
    python = os.environ.get("SFT_TEST_LLMCOMPRESSOR_PYTHON") or llmcompressor.environment(tmp_path / "llmc")
    how = ("--to", "int4", "--python", str(python), "--calibration-samples", "16")
    answer = sft("export", gated, *how, "--output", "made/int4", cwd=root)
    assert answer.status == 0, answer.err
    assert "GPTQ in groups of 64, on 16 of " in answer.out
    record = self_hashed_json.load_checked((root / "made" / "int4" / "export.json").read_bytes())
    assert record["outcome"] == "passed"
    assert record["scores"]["export"]["holdout.loss"] != record["scores"]["run"]["holdout.loss"]
    assert record["scores"]["differences"]["holdout.loss"]["verdict"]
    [tokenize] = (step for step in records_of(root / gated) if step["name"] == "tokenize")
    digest = hashlib.sha256((Path(tokenize["path"]) / "data.jsonl").read_bytes()).hexdigest()
    assert record["details"]["calibration"]["training_samples"] == f"sha256:{digest}"
    assert record["details"]["calibration"]["seed"] == 42
    assert "llmcompressor (of GPTQ's environment)" in record["versions"]


def test_k_quants_by_a_persons_program_are_scored(root: Path, gated: str, tmp_path: Path) -> None:
    program = shutil.which("llama-quantize") or str(llama_quantize.program(tmp_path))
    how = ("--to", "gguf", "--type", "q4_k_m", "--llama-quantize", program)
    answer = sft("export", gated, *how, "--output", "made/q4", cwd=root)
    assert answer.status == 0, answer.err
    assert "  matrices: " in answer.out
    record = self_hashed_json.load_checked((root / "made" / "q4" / "export.json").read_bytes())
    assert (record["outcome"], record["type"]) == ("passed", "q4_k_m")
    assert record["details"]["types"]["blk.0.ffn_up.weight"] == "Q5_0"
    assert record["scores"]["export"]["holdout.loss"] != record["scores"]["run"]["holdout.loss"]


def test_a_registered_model_is_served_from_where_it_lies(root: Path, gated: str, done: tuple[Path, Answer]) -> None:
    there = ("--to", "kserve", "--output", "made/kserve")
    answer = sft_in_process("export", str(done[1].run), *there, cwd=root)
    assert answer.status == 2
    assert "is on this machine, where no cluster reaches it" in answer.err
    answer = sft_in_process("export", gated, *there, cwd=root)
    assert answer.status == 1
    assert "its model is not registered" in answer.err

    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set: no contract to hold the registry to")
    contract = Path(os.environ["SFT_TEST_DATA"], "contracts", "model-registry.openapi.yaml")
    with ModelRegistryServer(contract, token="canary-token-31c0") as server:
        place = (f"registry.address={server.url}", "registry.uri=pvc://models/speller")
        settings = ("registry=kubeflow", "registry.model_name=speller", *place)
        registered = sft("register", gated, *settings, cwd=root, MODEL_REGISTRY_TOKEN="canary-token-31c0")
    assert registered.status == 0, registered.err
    answer = sft_in_process("export", gated, *there, "--namespace", "chats", cwd=root)
    assert answer.status == 0, answer.err
    [service] = yaml.safe_load_all((root / "made" / "kserve" / "inferenceservice.yaml").read_text())
    assert service["metadata"]["name"] == "speller"
    assert service["metadata"]["namespace"] == "chats"
    assert service["spec"]["predictor"]["model"]["storageUri"] == "pvc://models/speller"
    record = self_hashed_json.load_checked((root / "made" / "kserve" / "export.json").read_bytes())
    assert record["outcome"] == "the run's own files, as the run scored them"
    assert service["metadata"]["annotations"]["sft/package-digest"] == record["source"]["package"]
    assert record["scores"]["run"]["holdout.exact_match"] > 0.9


def test_a_run_whose_model_is_gone_from_the_store_is_refused(root: Path, gated: str) -> None:
    [package] = {step["path"] for step in records_of(root / gated) if step["name"] == "package"}
    Path(package).rename(f"{package}-away")
    try:
        answer = sft_in_process("export", gated, "--to", "gguf", "--output", "no/model", cwd=root)
    finally:
        Path(f"{package}-away").rename(package)
    assert answer.status == 1
    assert "its package is gone from the store" in answer.err


def test_a_run_that_made_no_model_is_refused(root: Path) -> None:
    before = set(root.glob("runs/quickstart-*"))
    done = sft("run", "quickstart", *QUICK, "eval.gates.holdout.exact_match=>= 1.5", cwd=root)
    assert done.status == 3
    [folder] = set(root.glob("runs/quickstart-*")) - before
    answer = sft_in_process("export", str(folder), "--to", "gguf", "--output", "no/model", cwd=root)
    assert answer.status == 1
    assert "it has made no model" in answer.err
