"""Canaries in every place where a secret may lie: none comes out, whatever succeeds or fails; and a run is repeated
from a record that has none."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sft.files import sha256_file
from tests.servers.http import Resource, serving
from tests.support.command import Answer, sft, start

pytestmark = pytest.mark.slow

CANARIES = {
    "HF_TOKEN": "canary-hf",
    "AWS_ACCESS_KEY_ID": "canary-aws-id",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+secret",
    "MODEL_REGISTRY_TOKEN": "canary-registry",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow",
    "WANDB_API_KEY": "canary-wandb",
    "SFT_SIGNING_KEY_PASSWORD": "canary-signing",
    "OCI_USERNAME": "me",
    "OCI_PASSWORD": "canary-oci",
    "REGISTRY_PASSWORD": "canary-p@ssword",
}
RECIPE = """\
# Canaries.
defaults:
  - config
  - override /dataset: http
  - override /model: scratch
  - override /registry: mlflow
  - _self_
dataset:
  uri: http://me:canary-uri@{host}/rows.jsonl?api_key=canary-query
  train_split: 0.8
model:
  scratch: {{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, vocab_size: 300}}
training: {{effective_batch_size: 16, max_seq_len: 128, max_tokens_per_gpu: 1024}}
eval: {{tasks: [], baseline: false, holdout: {{limit: 4, generate: false}}}}
registry: {{sign: true, sbom: true}}
"""


@dataclass(frozen=True)
class Planted:
    """A folder with a recipe full of canaries, run once.

    Attributes:
        arguments: Of the processes that the run started.
    """

    cwd: Path
    host: str
    out: str
    status: int
    arguments: frozenset[str]

    def sft(self, *arguments: str, **environment: str) -> Answer:
        key = {"SFT_SIGNING_KEY_FILE": str(self.cwd.parent / "key.pem")}
        return sft(*arguments, cwd=self.cwd, **{**CANARIES, **key, **environment})

    def leaks(self, *answers: Answer) -> list[str]:
        """Where a canary is, as it is or in base64 as an ``Authorization`` header has it."""
        found = ["the output" for answer in answers if "canary" in answer.out + answer.err]
        signs = (b"canary", *(base64.b64encode(f"me:{c}".encode()) for c in ("canary-uri", *CANARIES.values())))
        files = [f for f in self.cwd.rglob("*") if f.is_file() and f.name != "recipe.yaml"]
        return found + [str(f) for f in files if any(sign in f.read_bytes() for sign in signs)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    root = tmp_path_factory.mktemp("canaries")
    cwd, key = root / "cwd", root / "key.pem"
    cwd.mkdir()
    password = f"pass:{CANARIES['SFT_SIGNING_KEY_PASSWORD']}"
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", password]
    subprocess.run(["openssl", "genpkey", *curve, "-out", key], check=True, capture_output=True)
    numbers = random.Random(0)
    rows = [
        {"messages": [{"role": "user", "content": number}, {"role": "assistant", "content": number[::-1]}]}
        for number in (str(numbers.randrange(10**8)) for _ in range(80))
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    served = {"/rows.jsonl": Resource(content), "/locked.jsonl": Resource(statuses=[401] * 9)}
    with serving(served) as address, pytest.MonkeyPatch.context() as patch:
        host = address.removeprefix("http://")
        (cwd / "recipe.yaml").write_text(RECIPE.format(host=host))
        for name, value in {**CANARIES, "SFT_SIGNING_KEY_FILE": str(key)}.items():
            patch.setenv(name, value)
        with ExitStack() as ending:
            process = ending.enter_context(start("run", "recipe.yaml", cwd=cwd))
            ended, seen = threading.Event(), set[str]()
            watcher = threading.Thread(target=watch, args=(process.pid, seen, ended))
            watcher.start()
            out = process.stdout.read() if process.stdout else ""
            ended.set()
            watcher.join()
        yield Planted(cwd, host, out, process.returncode, frozenset(seen))


def watch(ancestor: int, seen: set[str], ended: threading.Event) -> None:
    """Collects the arguments of all that a process starts."""
    family = {ancestor}
    while not ended.wait(0.05):
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in family:
                    family.add(int(folder.name))
                    seen.add((folder / "cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue


def test_a_run_that_succeeds_lets_no_secret_out(planted: Planted) -> None:
    assert planted.status == 0, planted.out
    assert planted.leaks(Answer(0, planted.out, "")) == []
    [package] = planted.cwd.glob("runs/store/package/*/model")
    assert {"README.md", "sft.json", "sbom.cdx.json", "model.sig"} <= {file.name for file in package.iterdir()}
    assert "http://***@" in (package / "README.md").read_text()


def test_no_process_has_a_secret_among_its_arguments(planted: Planted) -> None:
    assert any("sft.adapters.instructlab.rank.worker" in arguments for arguments in planted.arguments)
    assert [arguments for arguments in planted.arguments if "canary" in arguments] == []


NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "said"),
    [
        (["run", "recipe.yaml", "--cfg", "job"], {}, 0, "uri: http://***@"),
        (
            ["plan", "recipe.yaml", "--config", "registry.address=sqlite:///x?password=canary-1"],
            {},
            0,
            "uri: http://***@",
        ),
        (["run", "recipe.yaml", "dataset.uri=http://me:canary-1@{host}/locked.jsonl"], {}, 1, "asks for a login"),
        (["--debug", "run", "recipe.yaml", "dataset.uri=http://me:canary-1@{host}/locked.jsonl"], {}, 1, "Traceback"),
        (
            [
                "run",
                "recipe.yaml",
                "dataset.uri=s3://bucket/x.jsonl",
                "dataset.storage_options.endpoint_url=http://{away}",
            ],
            {"AWS_MAX_ATTEMPTS": "1"},
            1,
            "s3://bucket/x.jsonl",
        ),
        (
            ["run", "recipe.yaml", "model=hub", "model.name_or_path=org/name"],
            {"HF_ENDPOINT": f"http://me:canary-1@{NOBODY}", "HF_HOME": "hub"},
            1,
            "can't be reached",
        ),
        (["run", "recipe.yaml", "registry.upload=oci://{away}/org/x"], {}, 1, "can't be reached"),
        (
            ["run", "recipe.yaml", "registry.upload=s3://bucket/x"],
            {"AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": f"http://me:canary-uri@{NOBODY}"},
            1,
            "can't be reached",
        ),
        (["run", "recipe.yaml", "name=wrong-key"], {"SFT_SIGNING_KEY_PASSWORD": "canary-wrong"}, 1, "can't sign"),
        (
            [
                "run",
                "recipe.yaml",
                "registry=kubeflow",
                "registry.address=http://me:${{oc.env:REGISTRY_PASSWORD}}@{away}",
            ],
            {},
            1,
            "error: ",
        ),
        (
            [
                *("run", "recipe.yaml", "training.env.A=hf_canarycanarycanarycanary", "name=${{oc.env:HF_TOKEN}}"),
                "dataset.storage_options.client_kwargs.aws_session_token=canary-1",
            ],
            {},
            2,
            "is named like a secret",
        ),
    ],
    ids=["dump", "plan", "login", "debug", "s3", "hub", "oci upload", "s3 upload", "key", "kubeflow", "refused"],
)
def test_no_secret_comes_out_of(
    planted: Planted, arguments: list[str], environment: dict[str, str], status: int, said: str
) -> None:
    answer = planted.sft(*(a.format(host=planted.host, away=NOBODY) for a in arguments), **environment)
    assert answer.status == status, answer.err
    assert said in answer.out + answer.err
    assert planted.leaks(answer) == []


@pytest.mark.exhaustive
def test_a_run_is_repeated_from_its_record_once_its_secrets_are_given_again(planted: Planted) -> None:
    run = min(planted.cwd.glob("runs/recipe-*/run.json"), key=lambda file: file.stat().st_mtime)
    lacking = planted.sft("run", "--from", str(run), "run_root=again")
    assert lacking.status == 2
    assert f"dataset.uri: was masked in {run}; give it again: dataset.uri=…" in lacking.err
    given = [f"dataset.uri=http://me:canary-uri@{planted.host}/rows.jsonl?api_key=canary-query", "run_root=again"]
    quick = ["eval.enabled=false", "registry.kind=none"]
    again = planted.sft("run", "--from", str(run), *given, *quick)
    assert again.status == 0, again.err
    assert "the same as recorded: dataset, model, tokenize, train\n" in again.out
    first, second = (planted.cwd.glob(f"{root}/store/train/*/model/model.safetensors") for root in ("runs", "again"))
    assert {sha256_file(file) for file in first} == {sha256_file(file) for file in second}
    assert planted.leaks(again) == []
