"""Checked before it costs: what can be known is known before anything is downloaded, made or trained.

One test for each thing that can be wrong. Each types `sft run` and finds the reason, and no folder of a stage.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.adapters.os import driver, gpus
from sft.artifacts import ModelArtifact
from tests.servers import hub, oci, rclone
from tests.servers.hub import Repo
from tests.servers.mlflow import tracking_server
from tests.support.command import Answer, sft, sft_in_process

KUBEFLOW = ["registry=kubeflow", "registry.author=me", "registry.model_name=m"]
AWAY = "http://127.0.0.1:9"
LARGE_GPU = """#!/bin/sh
case $1 in
--query-gpu=*) echo '0, GPU-5d, NVIDIA H200, 9.0, 143771, 300, Disabled' ;;
*) echo '| NVIDIA-SMI 999.48    Driver Version: 999.48    CUDA Version: 99.1 |' ;;
esac
"""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def run(root: Path, *settings: str, **environment: str) -> Answer:
    """Type the quickstart with other settings; nothing of it must have been done."""
    return checked(sft_in_process("run", "quickstart", *settings, cwd=root, **environment), root)


def checked(answer: Answer, root: Path) -> Answer:
    assert answer.status in (1, 2), answer
    assert done_in(root) == [], answer
    return answer


def done_in(root: Path) -> list[str]:
    """Return what stages have left, whole or not."""
    store = root / "runs" / "store"
    return sorted(path.name for path in (*store.glob("[!.]*/*"), *store.glob(".staging/*")))


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "s3" / "models").mkdir(parents=True)
    with rclone.s3(tmp_path / "s3", written=True) as endpoint:
        yield endpoint


def test_a_key_that_the_bucket_does_not_know(bucket: str, tmp_path: Path) -> None:
    keys = {"AWS_ENDPOINT_URL": bucket, "AWS_ACCESS_KEY_ID": rclone.KEY_ID, "AWS_SECRET_ACCESS_KEY": "wrong"}
    answer = run(tmp_path, "registry.upload=s3://models/speller", **keys)
    assert "asked before the training: registry.upload=s3://models/speller: " in answer.err
    assert "it refuses the key" in answer.err
    assert "try: check AWS_ACCESS_KEY_ID" in answer.err
    assert "earlier stages are done" not in answer.err


def test_a_bucket_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    keys = {"AWS_ENDPOINT_URL": bucket, "AWS_ACCESS_KEY_ID": rclone.KEY_ID, "AWS_SECRET_ACCESS_KEY": rclone.SECRET}
    assert "there is no bucket none" in run(tmp_path, "registry.upload=s3://none/speller", **keys).err


def test_a_server_of_buckets_that_is_away(tmp_path: Path) -> None:
    keys = {"AWS_ENDPOINT_URL": AWAY, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert "can't be reached" in run(tmp_path, "registry.upload=s3://models/speller", **keys).err


def test_asking_a_bucket_leaves_nothing_in_it(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sft.adapters.upload import s3

    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone.SECRET)
    (tmp_path / "logs").mkdir()
    assert s3.check("models", "speller", folder=tmp_path / "logs") == ""
    assert [path for path in (tmp_path / "s3").rglob("*") if path.is_file()] == []


def test_a_registry_of_images_that_refuses_the_login(tmp_path: Path) -> None:
    with oci.registry(tmp_path / "oci", locked=True) as host:
        login = {"OCI_USERNAME": "me", "OCI_PASSWORD": "wrong-password"}
        answer = run(tmp_path, f"registry.upload=oci://{host}/org/speller", **login)
    assert "it refuses the login" in answer.err
    assert f"docker login {host}" in answer.err


def test_a_hub_token_that_may_only_read(tmp_path: Path, hub_of_tokens: str) -> None:
    said = run(tmp_path, "registry.upload=hf://org/speller", HF_ENDPOINT=hub_of_tokens, HF_TOKEN="hf_read").err
    assert "HF_TOKEN may read, and not write" in said


def test_a_hub_token_of_somebody_who_is_not_in_the_organization(tmp_path: Path, hub_of_tokens: str) -> None:
    said = run(tmp_path, "registry.upload=hf://others/speller", HF_ENDPOINT=hub_of_tokens, HF_TOKEN="hf_write").err
    assert "HF_TOKEN is of me, who is not in others" in said


def test_no_hub_token(tmp_path: Path, hub_of_tokens: str) -> None:
    said = run(tmp_path, "registry.upload=hf://org/speller", HF_ENDPOINT=hub_of_tokens, HF_HOME=str(tmp_path)).err
    assert "there is no HF_TOKEN\n  try: set HF_TOKEN to a token that may write there" in said


def test_a_hub_token_of_nobody(tmp_path: Path, hub_of_tokens: str) -> None:
    environment = {"HF_ENDPOINT": hub_of_tokens, "HF_TOKEN": "hf_unknown"}
    said = run(tmp_path, "registry.upload=hf://org/speller", **environment).err
    assert "does not allow writing to org/speller (401" in said


@pytest.fixture
def hub_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that knows a token for reading and one for writing, of somebody who is in ``org``."""

    class Tokens(hub.Handler):
        def do_GET(self) -> None:
            role = {"Bearer hf_read": "read", "Bearer hf_write": "write"}.get(self.headers.get("Authorization", ""))
            if self.path != "/api/whoami-v2":
                super().do_GET()
            elif role is None:
                self.fail(401)
            else:
                token = {"accessToken": {"displayName": "mine", "role": role}}
                self.send_json({"type": "user", "name": "me", "auth": token, "orgs": [{"name": "org"}]})

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub.serving({}, Tokens) as endpoint:
        yield endpoint


@pytest.mark.long
def test_a_kubeflow_registry_that_is_away(tmp_path: Path) -> None:
    answer = run(tmp_path, *KUBEFLOW, f"registry.address={AWAY}")
    assert "asked before the training: " in answer.err
    assert "can't be reached" in answer.err


def test_a_name_that_the_registry_does_not_take(tmp_path: Path) -> None:
    assert "takes no / and no :" in run(tmp_path, "registry=mlflow", "registry.model_name=a/b").err


@pytest.mark.long
def test_an_mlflow_server_that_is_away(tmp_path: Path) -> None:
    answer = run(tmp_path, "registry=mlflow", f"registry.address={AWAY}")
    assert f"asked before the training: asking MLflow failed: MLflow at {AWAY}: " in answer.err


@pytest.mark.long
def test_an_mlflow_server_that_answers_is_no_obstacle(tmp_path: Path) -> None:
    from sft.adapters.registry import mlflow

    (tmp_path / "logs").mkdir()
    with tracking_server(tmp_path / "server") as address:
        assert mlflow.check(address=address, folder=tmp_path / "logs") == ""


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sft.planning import machine_needs

    here = machine_needs.importlib.util.find_spec
    monkeypatch.setattr(
        machine_needs.importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else here(name, *rest)
    )
    tracker = "training.tracking.trackers=[wandb]"
    assert "wandb is not installed; pip install 'sft-runner[wandb]'" in run(tmp_path, tracker).err
    plan = sft_in_process("plan", "quickstart", tracker, cwd=tmp_path)
    assert "refused    training.tracking.trackers: wandb is not installed" in plan.out


@pytest.mark.long
def test_a_tracker_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    tracker = "training.tracking.trackers=[wandb]"
    netrc = tmp_path / "netrc"
    assert "wandb has no login" in run(tmp_path, tracker, NETRC=str(netrc)).err
    netrc.write_bytes(b"machine \xff")
    assert "wandb has no login" in run(tmp_path, tracker, NETRC=str(netrc)).err
    netrc.write_text("machine api.wandb.ai login user password none-of-yours\n")
    names = {"NETRC": str(netrc), "WANDB_API_KEY": "none-of-yours", "WANDB_MODE": "offline"}
    for login in ({name: value} for name, value in {**names, "WANDB_IDENTITY_TOKEN_FILE": "token"}.items()):
        assert "refused" not in sft_in_process("plan", "quickstart", tracker, cwd=tmp_path, **login).out


@pytest.fixture
def models(tmp_path: Path, tiny_model: ModelArtifact, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Repo]]:
    """A hub with a dataset, a model without a chat template, and one whose weights are pickled."""
    (tmp_path / "rows").mkdir()
    row = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}]}
    (tmp_path / "rows" / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    bare = shutil.copytree(tiny_model.model_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template*"))
    pickled = shutil.copytree(tiny_model.model_dir, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    served = {"org/bare": Repo(bare), "org/pickled": Repo(pickled), "org/rows": Repo(tmp_path / "rows", "datasets")}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with hub.serving(served) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield served


def downloads(repos: dict[str, Repo]) -> list[str]:
    """Return the files that were asked for, as the hub was."""
    asked = [request for repo in repos.values() for request in repo.requests]
    return [request for request in asked if request.startswith("GET") and "/resolve/" in request]


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "reason"),
    [("org/bare", "its tokenizer has no chat template"), ("org/pickled", "pickled weights are not loaded")],
)
def test_a_model_of_the_hub_that_cannot_be_trained(
    model: str, reason: str, models: dict[str, Repo], tmp_path: Path
) -> None:
    settings = ["model=hub", f"model.name_or_path={model}", "dataset=hub", "dataset.uri=org/rows"]
    answer = checked(sft("run", "quickstart", *settings, cwd=tmp_path), tmp_path)  # its client has one hub per process
    assert f"model.name_or_path={model}: " in answer.err
    assert reason in answer.err
    fetched = downloads(models)
    assert fetched
    assert not [request for request in fetched if "safetensors" in request or ".bin" in request or "jsonl" in request]


def test_a_folder_without_a_chat_template(tmp_path: Path, tiny_model: ModelArtifact) -> None:
    bare = shutil.copytree(tiny_model.model_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template*"))
    answer = run(tmp_path, "model=hub", f"model.name_or_path={bare}")
    assert "its tokenizer has no chat template" in answer.err
    assert "model.chat_template=FILE" in answer.err


def test_a_task_that_lm_eval_does_not_have(tmp_path: Path) -> None:
    assert "arc_eesy" in run(tmp_path, "eval.tasks=[arc_eesy]").err


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sft.planning import estimate

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert "GiB are free, and training writes up to" in run(tmp_path).err


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        nodes = [f"training.launcher.{one}" for one in ("num_workers=2", "node_rank=0", f"rendezvous={address}")]
        answer = run(tmp_path, *nodes, "training.launcher.procs_per_worker=1")
    assert f"training.launcher.rendezvous={address}: port " in answer.err
    assert "can't be listened on (Address already in use)" in answer.err


def test_a_gpu_whose_memory_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(LARGE_GPU)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for forget in (gpus.forget, driver.installed_driver.cache_clear):
        forget()
    try:
        large = [f"model.scratch.{size}" for size in ("hidden_size=1024", "num_hidden_layers=8")]
        answer = run(tmp_path, "training.launcher.procs_per_worker=1", *large)
    finally:
        for forget in (gpus.forget, driver.installed_driver.cache_clear):
            forget()
    assert "0.3 GiB are free of the GPU's 140.4" in answer.err


def test_a_key_to_sign_with_that_is_not_there(tmp_path: Path) -> None:
    assert "none.pem" in run(tmp_path, "registry=mlflow", f"registry.sign={tmp_path / 'none.pem'}").err


def test_the_key_of_a_judge_that_is_not_there(tmp_path: Path) -> None:
    judge = ["eval.judge.address=http://127.0.0.1:9/v1", "eval.judge.model=m", "eval.judge.key_env=NO_SUCH_KEY"]
    assert "eval.judge.key_env=NO_SUCH_KEY: is not set in the environment" in run(tmp_path, *judge).err
