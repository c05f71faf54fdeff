"""Datasets and models from a hub, fetched by the real clients in the processes that a run starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from tests.command import Answer, records, sft, steps
from tests.servers import hub
from tests.servers.hub import Repo

COLUMNS = ["dataset.format=prompt_completion", "dataset.columns.prompt=question", "dataset.columns.completion=answer"]
Hub = tuple[str, dict[str, Repo]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelArtifact) -> Iterator[Hub]:
    """Endpoint and repositories."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("small", "halves"):
        (root / name).mkdir()
    row = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}]}
    rows = "".join(
        json.dumps({**row, "n": n, "messages": [{**row["messages"][0], "content": str(n)}, row["messages"][1]]}) + "\n"
        for n in range(40)
    )
    (root / "small" / "train.jsonl").write_text(rows)
    for split in ("validation", "test"):
        (root / "halves" / f"{split}.jsonl").write_text(rows)
    repos = {
        "org/small": Repo(root / "small", "datasets"),
        "org/gated": Repo(root / "small", "datasets", gated=True),
        "org/halves": Repo(root / "halves", "datasets"),
        "org/tiny": Repo(tiny_model.model_dir),
    }
    if "SFT_TEST_DATA" in os.environ:
        hub.write_gsm8k(Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k", root / "gsm8k")
        repos["openai/gsm8k"] = Repo(root / "gsm8k", "datasets")
    with hub.serving(repos) as endpoint:
        yield endpoint, repos


def run(served: Hub, cwd: Path, *arguments: str, **environment: str) -> Answer:
    """A run that ends after the dataset stage, for want of a model."""
    broken = ["model=hub", f"model.name_or_path={cwd}"]
    places = {"HF_ENDPOINT": served[0], "HF_HOME": str(cwd / "hf"), **environment}
    return sft("run", "quickstart", "dataset=hub", *broken, *arguments, cwd=cwd, **places)


def facts(cwd: Path, step: str) -> dict[str, Any]:
    [record] = records(cwd / "runs")
    found: dict[str, Any] = steps(record)[step]["facts"]
    return found


def test_gsm8k_is_read_from_the_hub_and_its_commit_recorded(served: Hub, tmp_path: Path) -> None:
    if "openai/gsm8k" not in served[1]:
        pytest.skip("SFT_TEST_DATA is not set")
    answer = run(served, tmp_path, "dataset.uri=openai/gsm8k:main", *COLUMNS)
    made = facts(tmp_path, "dataset")
    assert made["num_rows"] == 7473, answer.err
    assert made["source_version"] == served[1]["openai/gsm8k"].commit
    assert "several configs: main, socratic" in run(served, tmp_path, "dataset.uri=openai/gsm8k", *COLUMNS).err


def test_a_revision_and_a_split_are_chosen(served: Hub, tmp_path: Path) -> None:
    commit = served[1]["org/halves"].commit
    answer = run(served, tmp_path, f"dataset.uri=hf://org/halves@{commit}", "dataset.split=test")
    assert facts(tmp_path, "dataset")["num_rows"] == 40, answer.err


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("org/none", "no such repository on the hub"),
        ("org/small@nowhere", "has no revision nowhere"),
        ("org/small:other", "has no config other but default"),
        ("org/halves", "several splits: "),
        ("org/gated", "is gated: accept its terms on the hub and set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_have_is_said_in_a_line(served: Hub, uri: str, said: str, tmp_path: Path) -> None:
    answer = run(served, tmp_path, f"dataset.uri={uri}")
    assert answer.status == 1
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_a_gated_dataset_opens_with_the_token_which_is_written_nowhere(served: Hub, tmp_path: Path) -> None:
    answer = run(served, tmp_path, "dataset.uri=org/gated", HF_TOKEN=hub.TOKEN)
    assert facts(tmp_path, "dataset")["num_rows"] == 40, answer.err
    everything = answer.out + answer.err
    everything += "".join(path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert hub.TOKEN not in everything


def test_a_model_comes_with_its_commit_and_without_pickles(served: Hub, tmp_path: Path) -> None:
    repo = served[1]["org/tiny"]
    (repo.folder / "pytorch_model.bin").write_bytes(b"a pickle")
    places = {"HF_ENDPOINT": served[0], "HF_HOME": str(tmp_path / "hf")}
    stopped = ["training.max_seq_len=2", "model=hub", "model.name_or_path=org/tiny"]
    try:
        answer = sft("run", "quickstart", *stopped, cwd=tmp_path, **places)
        made = facts(tmp_path, "model")
        assert (made["source"], made["revision"]) == ("org/tiny", repo.commit), answer.err
    finally:
        (repo.folder / "pytorch_model.bin").unlink()
    assert not any("pytorch_model.bin" in request for request in repo.requests)
    assert "too-long" in answer.err


def test_a_hub_that_is_away_is_said_unless_the_model_is_in_the_cache(served: Hub, tmp_path: Path) -> None:
    places = {"HF_HOME": str(tmp_path / "hf")}
    command = ["run", "quickstart", "training.max_seq_len=2", "model=hub", "model.name_or_path=org/tiny"]
    away = "http://127.0.0.1:9"
    assert "the hub is away" in sft(*command, cwd=tmp_path, HF_ENDPOINT=away, **places).err
    assert "too-long" in sft(*command, cwd=tmp_path, HF_ENDPOINT=served[0], **places).err
    assert "too-long" in sft(*command, "run_root=other", cwd=tmp_path, HF_ENDPOINT=away, **places).err
