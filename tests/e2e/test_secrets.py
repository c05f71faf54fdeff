"""Canaries in every place where a secret may lie: none comes out, whatever succeeds or fails; and a run is repeated
from a record that has none."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sft.files import sha256_file
from tests.servers.http import Resource, serving
from tests.support.canaries import AT_HOME, VARIABLES, Planted, echoing, plant
from tests.support.command import Answer, start, steps

pytestmark = [pytest.mark.slow, pytest.mark.long]

HOSTILE = ("random", "torch", "json", "yaml", "transformers", "sitecustomize", "usercustomize", "lm_eval", "mlflow")
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


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    root = tmp_path_factory.mktemp("canaries")
    cwd, key, temporary = root / "cwd", root / "key.pem", root / "tmp"
    environment = {**plant(root), "TMPDIR": str(temporary)}
    cwd.mkdir()
    temporary.mkdir()
    for name in HOSTILE:
        (cwd / f"{name}.py").write_text(f"open({str(root / 'ran')!r}, 'a').write({name!r})\n")
    password = f"pass:{VARIABLES['SFT_SIGNING_KEY_PASSWORD']}"
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", password]
    subprocess.run(["openssl", "genpkey", *curve, "-out", key], check=True, capture_output=True)
    public = ["-passin", password, "-pubout", "-out", root / "key.pub"]
    subprocess.run(["openssl", "pkey", "-in", key, *public], check=True, capture_output=True)
    numbers = random.Random(0)
    rows = [
        {"messages": [{"role": "user", "content": number}, {"role": "assistant", "content": number[::-1]}]}
        for number in (str(numbers.randrange(10**8)) for _ in range(80))
    ]
    data = Resource("".join(json.dumps(row) + "\n" for row in rows).encode())
    served = {"/rows.jsonl": data, "/locked.jsonl": Resource(statuses=[401] * 9)}
    path = os.pathsep.join(filter(None, [str(root / "shouting"), os.environ.get("PYTHONPATH")]))
    with serving(served) as address, echoing() as echo, pytest.MonkeyPatch.context() as patch:
        host = address.removeprefix("http://")
        (cwd / "recipe.yaml").write_text(RECIPE.format(host=host))
        patch.setenv("PYTHONPATH", path)
        for name, value in environment.items():
            patch.setenv(name, value)
        with ExitStack() as ending:
            process = ending.enter_context(start("run", "recipe.yaml", cwd=cwd))
            ended, seen = threading.Event(), set[str]()
            watcher = threading.Thread(target=watch, args=(process.pid, seen, ended))
            watcher.start()
            out = process.stdout.read() if process.stdout else ""
            ended.set()
            watcher.join()
        yield Planted(cwd, host, echo, environment, out, process.returncode, frozenset(seen), data.headers)


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


def test_no_process_imports_what_lies_in_the_working_folder(planted: Planted) -> None:
    assert not (planted.cwd.parent / "ran").exists()


def test_what_was_shouted_came_through_masked(planted: Planted) -> None:
    logs = [file for file in planted.cwd.rglob("log.txt") if "write ***" in file.read_text()]
    assert len(logs) > 3
    for file in logs:
        assert file.read_text().count("***") > 8 * (len(VARIABLES) + len(AT_HOME))


def test_a_server_gets_no_secret_but_its_own(planted: Planted) -> None:
    own = base64.b64encode(b"me:canary-uri").decode()
    assert {headers["authorization"] for headers in planted.asked} == {f"Basic {own}"}
    others = [text for headers in planted.asked for name, text in headers.items() if name != "authorization"]
    assert "canary" not in " ".join(others)


def test_there_are_thirty_of_them() -> None:
    texts = [*VARIABLES.values(), *AT_HOME.values(), RECIPE]
    found = {text for content in texts for text in re.findall(r"canary[\w/+@<&'\"=\\ .-]*", content)}
    assert len(found) >= 30


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
            2,
            "must be scheme, host, port and path alone",
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


ECHOED = {
    "rows": ["run", "recipe.yaml", "dataset.uri=http://me:canary-1@{echo}/rows.jsonl?sig=canary-2&token=canary-3"],
    "registry": ["register", "{run}", "registry=kubeflow", "registry.address=http://{echo}"],
    "hub": ["run", "recipe.yaml", "model=hub", "model.name_or_path=org/name"],
    "upload to a hub": ["run", "recipe.yaml", "registry.upload=hf://org/name"],
    "upload to a registry": ["run", "recipe.yaml", "registry.upload=oci://{echo}/org/x"],
    "upload to S3": ["run", "recipe.yaml", "registry.upload=s3://bucket/x"],
    "rows on S3": ["run", "recipe.yaml", "dataset.uri=s3://bucket/rows.jsonl"],
}


@pytest.mark.parametrize("what", ECHOED)
def test_a_server_that_repeats_what_it_is_told_gives_no_secret_away(what: str, planted: Planted) -> None:
    arguments = [text.format(echo=planted.echo, run=planted.run) for text in ECHOED[what]]
    address = f"http://{planted.echo}"
    servers = {"HF_ENDPOINT": address, "HF_HOME": "hub", "AWS_ENDPOINT_URL": address, "AWS_MAX_ATTEMPTS": "1"}
    answer = planted.sft("--debug", *arguments, **servers)
    assert answer.status == 1, answer.err
    assert "Traceback" in answer.err
    assert planted.leaks(answer) == []


def test_a_run_that_fails_for_what_a_task_says_tells_no_secret(planted: Planted) -> None:
    tasks = ["eval.tasks=[shouts]", f"eval.include_path={planted.cwd.parent / 'tasks'}", "eval.allow_task_code=true"]
    answer = planted.sft("run", "recipe.yaml", *tasks)
    assert answer.status == 1, answer.err
    assert "I know ['***'" in answer.err
    assert planted.leaks(answer) == []


def test_a_sweep_keeps_no_secret_that_was_typed(planted: Planted) -> None:
    uri = f"dataset.uri=http://me:canary-typed@{planted.host}/rows.jsonl?api_key=canary-typed-too"
    answer = planted.sft("run", "recipe.yaml", "-m", "dataset.train_split=0.7,0.6", uri, "--until", "dataset")
    assert answer.status == 0, answer.err
    assert len(list(planted.cwd.glob("runs/sweeps/*"))) > 0
    assert planted.leaks(answer) == []


REFUSED = {"kfp": 2, "trainjob": 1}
"""A pipeline has the recipe's text, which holds a password; the pods have no dataset yet."""
POD = ["training.launcher.gpus_per_worker=0", "run_root=/workspace/runs"]
TOLD = [
    ["verify", "{run}", "--key", "{key}"],
    ["compare", "{run}", "{run}", "--html", "compare.html"],
    ["models", "--json"],
    ["preview", "recipe.yaml", "--html", "preview.html"],
    ["data", "check", "http://me:canary-uri@{host}/rows.jsonl?api_key=canary-query", "--html", "data.html"],
    ["export", "trainjob", "recipe.yaml", "training/launcher=kubeflow", *POD],
    ["export", "kfp", "recipe.yaml"],
    ["eval", "{model}", "dataset.uri=http://me:canary-uri@{host}/rows.jsonl?api_key=canary-query", "eval.tasks=[]"],
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("arguments", TOLD, ids=[" ".join(arguments[:2]) for arguments in TOLD])
def test_no_command_tells_a_secret(arguments: list[str], planted: Planted) -> None:
    model = Path(steps(json.loads((planted.run / "run.json").read_text()))["package"]["path"], "model")
    places = {"run": planted.run, "model": model, "host": planted.host, "key": planted.cwd.parent / "key.pub"}
    answer = planted.sft(*(text.format(**places) for text in arguments))
    assert answer.status == REFUSED.get(arguments[1], 0), answer.err
    assert planted.leaks(answer) == []


@pytest.mark.exhaustive
def test_a_run_is_repeated_from_its_record_once_its_secrets_are_given_again(planted: Planted) -> None:
    run = planted.run / "run.json"
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
