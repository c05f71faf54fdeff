"""Datasets and models from a hub, fetched by the real clients in the processes that a run starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.artifacts import ModelArtifact
from tests.servers import hub
from tests.servers.hub import AWAY, Repo
from tests.support.command import Answer, records, sft, steps

COLUMNS = ["dataset.format=prompt_completion", "dataset.columns.prompt=question", "dataset.columns.completion=answer"]
FEW_ROWS = ["dataset.uri=synthetic://spell-numbers?rows=30"]
NO_SUCH_COMMIT = "a" * 40
CLIENTS_CHUNK_BYTES = 10 << 20  # huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE: what a broken download keeps
REFUSED = {
    "org/none": "no such path here, and no such repository on the hub",
    "org/small@nowhere": "has no revision nowhere",
    f"org/small@{NO_SUCH_COMMIT}": f"has no revision {NO_SUCH_COMMIT}",
    "org/configs": "several configs: first, second",
    "org/halves": "several splits: ",
    "org/gated": "org/gated is gated\n  try: accept its terms on the hub and set HF_TOKEN",
    "org/script": "scripts are no longer supported",
    "org/pictures": "column picture holds struct<bytes: binary, path: string>, which JSON can't",
}
Hub = tuple[str, dict[str, Repo]]


def write(folder: Path, *splits: str, num_rows: int = 40) -> Path:
    """A dataset in JSON Lines, the same rows in each split."""
    folder.mkdir(parents=True)
    rows = [{"prompt": f"new year {n}", "completion": f"20{n:02d}-01-01"} for n in range(num_rows)]
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelArtifact) -> Iterator[Hub]:
    """Endpoint and repositories."""
    root = tmp_path_factory.mktemp("hub")
    small = write(root / "small", "train")
    configs = write(root / "configs", "first", "second")
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("first", "second"))
    (configs / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    script = write(root / "script", "train")
    (script / "script.py").write_text("raise SystemExit('this ran')")
    (root / "pictures").mkdir()
    pictures = pa.table({"prompt": ["what is it?"], "picture": [{"bytes": b"\x89PNG", "path": "a.png"}]})
    pyarrow.parquet.write_table(pictures, root / "pictures" / "train.parquet")
    model = shutil.copytree(tiny_model.model_dir, root / "tiny")
    large = shutil.copytree(model, root / "large")
    (large / "model.safetensors").write_bytes(bytes(CLIENTS_CHUNK_BYTES + 1000))
    for name in ("pytorch_model.bin", "consolidated.safetensors", "original/params.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not for us")
    repos = {
        "org/small": Repo(small, "datasets", branches={"v1": write(root / "old", "train", num_rows=20)}),
        "org/gated": Repo(small, "datasets", gated=True),
        "org/halves": Repo(write(root / "halves", "validation", "test"), "datasets"),
        "org/configs": Repo(configs, "datasets"),
        "org/script": Repo(script, "datasets"),
        "org/pictures": Repo(root / "pictures", "datasets"),
        "org/tiny": Repo(model),
        "org/large": Repo(large),
    }
    if "SFT_TEST_DATA" in os.environ:
        hub.write_gsm8k(Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k", root / "gsm8k")
        repos["openai/gsm8k"] = Repo(root / "gsm8k", "datasets")
    with hub.serving(repos) as endpoint:
        yield endpoint, repos


def run(endpoint: str, cwd: Path, *arguments: str, **environment: str) -> Answer:
    """A run with a hub and a cache of its own."""
    places = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cwd / "hf")}
    return sft("run", "quickstart", *arguments, cwd=cwd, **places, **environment)


def read(endpoint: str, cwd: Path, *arguments: str, **environment: str) -> Answer:
    """A run that ends after the dataset stage."""
    return run(endpoint, cwd, "--until", "dataset", "dataset=hub", *arguments, **environment)


def facts(cwd: Path, step: str) -> dict[str, Any]:
    """What the last run says of a step."""
    found: dict[str, Any] = steps(records(cwd / "runs")[-1])[step]["facts"]
    return found


@pytest.mark.long
@pytest.mark.slow
def test_gsm8k_is_read_from_the_hub_and_its_commit_recorded(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    if "openai/gsm8k" not in repos:
        pytest.skip("SFT_TEST_DATA is not set")
    answer = read(endpoint, tmp_path, "dataset.uri=openai/gsm8k:main", *COLUMNS)
    made = facts(tmp_path, "dataset")
    assert made["num_rows"] == 7473, answer.err
    assert made["source_version"] == repos["openai/gsm8k"].commit


@pytest.mark.long
def test_a_branch_is_read_as_it_is_written(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    answer = read(endpoint, tmp_path, "dataset.uri=org/small@v1", "dataset.train_split=1.0")
    made = facts(tmp_path, "dataset")
    old = repos["org/small"].at("v1")
    assert old is not None
    assert (made["num_rows"], made["source_version"]) == (20, old.commit), answer.err
    [written] = (tmp_path / "runs").rglob("train.jsonl")
    answers = {json.loads(line)["messages"][1]["content"] for line in written.read_text().splitlines()}
    assert answers == {f"20{n:02d}-01-01" for n in range(20)}  # `datasets` reads them as times


@pytest.mark.long
def test_a_hub_address_is_no_folder_and_a_failing_hub_is_asked_again(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    write(tmp_path / "org" / "halves", "train", num_rows=5)
    repos["org/halves"].failures = 1
    answer = read(endpoint, tmp_path, "dataset.uri=hf://org/halves", "dataset.split=test")
    made = facts(tmp_path, "dataset")
    assert made["num_rows"] == 40, answer.err
    assert made["notes"] == ["hf://org/halves: not read: validation; dataset.split chooses"]
    assert made["notes"][0] in answer.out


@pytest.fixture(scope="module")
def answers(served: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What is said of each uri in `REFUSED`; two at a time."""
    cwds = [tmp_path_factory.mktemp("refused") for _ in REFUSED]
    for cwd in cwds:  # an old copy, as `datasets` keeps it
        (cwd / "hf" / "datasets" / "org___script" / "default" / "0.0.0" / "hash").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(lambda uri, cwd: read(served[0], cwd, f"dataset.uri={uri}"), REFUSED, cwds)
        return dict(zip(REFUSED, said, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("uri", REFUSED)
def test_what_can_not_be_read_is_said_in_a_line(uri: str, answers: dict[str, Answer]) -> None:
    assert answers[uri].status == 1
    assert REFUSED[uri] in answers[uri].err
    assert "Traceback" not in answers[uri].err


@pytest.mark.long
def test_a_gated_dataset_opens_with_the_token_which_is_written_nowhere(served: Hub, tmp_path: Path) -> None:
    answer = read(served[0], tmp_path, "dataset.uri=org/gated", HF_TOKEN=hub.TOKEN)
    assert facts(tmp_path, "dataset")["num_rows"] == 40, answer.err
    everything = answer.out + answer.err
    everything += "".join(path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert hub.TOKEN not in everything


@pytest.mark.long
def test_a_dataset_that_was_downloaded_is_read_where_the_hub_is_away(served: Hub, tmp_path: Path) -> None:
    assert "and the hub can't be reached" in read(AWAY, tmp_path, "dataset.uri=org/small").err
    download = "import huggingface_hub; huggingface_hub.snapshot_download('org/small', repo_type='dataset')"
    places = {"HF_ENDPOINT": served[0], "HF_HOME": str(tmp_path / "hf")}
    subprocess.run([sys.executable, "-c", download], env=os.environ | places, check=True)
    answer = read(AWAY, tmp_path, "dataset.uri=org/small")
    assert facts(tmp_path, "dataset")["num_rows"] == 40, answer.err


@pytest.mark.long
@pytest.mark.slow
def test_a_model_comes_with_its_commit_and_nothing_that_is_not_needed(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    answer = run(endpoint, tmp_path, *FEW_ROWS, "training.max_seq_len=2", "model=hub", "model.name_or_path=org/tiny")
    made = facts(tmp_path, "model")
    assert (made["source"], made["revision"]) == ("org/tiny", repos["org/tiny"].commit), answer.err
    assert "too-long" in answer.err
    fetched = {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "consolidated.safetensors", "original"}


def test_a_plan_asks_the_hub_for_a_models_config_alone(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    repos["org/tiny"].requests.clear()
    places = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}
    auto = ["training.precision=auto", "model=hub", "model.name_or_path=org/tiny"]
    answer = sft("plan", "quickstart", *FEW_ROWS, *auto, cwd=tmp_path, **places)
    assert "fp32          the faster one for a model of under 1 million parameters" in answer.out, answer.err
    files = {request.split()[1].rpartition("/")[2] for request in repos["org/tiny"].requests}
    assert "config.json" in files
    assert not any("safetensors" in request for request in repos["org/tiny"].requests)


@pytest.mark.long
def test_a_model_whose_download_broke_off_is_resumed_and_then_needs_no_hub(served: Hub, tmp_path: Path) -> None:
    endpoint, repos = served
    repo = repos["org/large"]
    model = [*FEW_ROWS, "model=hub", "model.name_or_path=org/large"]
    there = "model.safetensors: "  # the first thing that is said of a model that has arrived
    assert "the hub can't be reached" in run(AWAY, tmp_path, *model).err
    repo.failures, repo.breaks_after_bytes = 1, CLIENTS_CHUNK_BYTES + 1
    assert there in run(endpoint, tmp_path, *model).err
    assert [request for request in repo.requests if request.endswith(f"model.safetensors bytes={CLIENTS_CHUNK_BYTES}-")]
    assert there in run(AWAY, tmp_path, *model).err
