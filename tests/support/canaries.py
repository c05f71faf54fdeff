"""Canaries wherever a secret may lie, programs that shout them, a server that repeats them, and a search for them in
whatever was written."""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.command import Answer, sft

VARIABLES = {
    "HF_TOKEN": "canary-hf",
    "AWS_ACCESS_KEY_ID": "canary-aws-id",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+secret",
    "AWS_SESSION_TOKEN": "canary//aws==session",
    "MODEL_REGISTRY_TOKEN": "canary-registry",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow",
    "WANDB_API_KEY": "canary-wandb",
    "SFT_SIGNING_KEY_PASSWORD": "canary-signing",
    "OCI_USERNAME": "me",
    "OCI_PASSWORD": "canary-oci",
    "REGISTRY_PASSWORD": "canary-p@ssword",
    "JUDGE_KEY": "canary-judge",
    "OPENAI_KEY": "canary-openai",
    "ANTHROPIC_API_KEY": "canary-anthropic",
    "DB_PASS": "canary'db\"pass\\x",
    "GITHUB_PAT": "canary-pat",
    "MYSQL_PWD": "canary-pwd",
    "SENTRY_DSN": "https://canary-dsn@sentry.example/1",
    "A_SECRET": "canary <ä> & ß",
    "SIGSTORE_ID_TOKEN": "eyJcanary.canary.canary",
    "KUBERNETES_AUTH_TOKEN": "canary-kubernetes",
    "KUBERNETES_SERVER_URL": "https://127.0.0.1:9",
    "SOME_PRIVATE_KEY": "-----BEGIN KEY-----\ncanary+line+one/of/the+key==\ncanary+line+two/of/the+key==\n",
    "AZURE_CONNECTION_STRING": "AccountName=a;AccountKey=canary-azure;",
    "COOKIE": "session=canary-cookie",
    "PIP_INDEX_URL": "https://me:canary-index@packages.example/simple",
    "DATABASE_URL": "postgresql://me:canary-database@db.example/x",
}
AT_HOME = {
    ".cache/huggingface/token": "canary-login-hf\n",
    ".netrc": "machine nowhere.example login me password canary-netrc\n",
    ".aws/credentials": "[default]\naws_access_key_id = canary-file-id\naws_secret_access_key = canary-file-secret\n",
    ".docker/config.json": json.dumps(
        {"auths": {"ghcr.io": {"auth": base64.b64encode(b"me:canary-docker").decode()}, "q": {"auth": "canary-auth"}}}
    ),
    ".config/containers/auth.json": '{"auths": {"quay.io": {"identitytoken": "canary-podman"}}}',
    ".kube/config": "users:\n- name: me\n  user:\n    token: canary-kubeconfig\n",
    ".mlflow/credentials": "[mlflow]\nmlflow_tracking_password = canary-mlflow-file\n",
    ".git-credentials": "https://me:canary-git@git.example\n",
    ".config/rclone/rclone.conf": "[s3]\nsecret_access_key = canary-rclone\n",
}
SHOUT = """\
import os, re, pathlib
if os.environ.get("SFT_PARENT_PID"):  # in each Python that a command of ours starts, whoever starts it
    import atexit, base64, json, subprocess, sys, traceback, urllib.parse
    def secrets():
        yield from (value for value in os.environ.values() if "canary" in value)
        for file in pathlib.Path(os.environ["HOME"]).rglob("*"):
            if file.is_file() and file.stat().st_size < 10_000:
                yield from re.findall(r"(?:canary|[A-Za-z0-9]{16,}=?)[^\\s\\"'@]*", file.read_text(errors="replace"))
    def shout():
        for secret in secrets():
            encoded = base64.b64encode(f"me:{secret}".encode()).decode()
            for stream in (sys.stdout, sys.stderr):
                stream.write(f"write {secret}\\n")
                stream.writelines([f"lines {secret}\\n"])
                stream.write(secret[:5]); stream.write(secret[5:] + "\\n")
                quoted = urllib.parse.quote(secret, safe="")
                print(json.dumps(secret), repr(secret), quoted, encoded, file=stream, flush=True)
                stream.buffer.write(f"buffer {secret}\\n".encode()); stream.buffer.flush()
                os.write(stream.fileno(), f"descriptor {secret}\\n".encode())
            try:
                raise RuntimeError(secret)
            except RuntimeError:
                traceback.print_exc()
        subprocess.run(["sh", "-c", "env | grep c.nary; env | grep c.nary >&2"], check=False)
    shout()
    atexit.register(shout)
"""
TASK = """\
task: shouts
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
process_docs: !function evil.fail
doc_to_text: "{{question}}"
doc_to_target: answer
"""
FAIL = """\
import os
BIRD = "can" + "ary"  # a traceback quotes the lines of this file
def fail(docs):
    raise RuntimeError("I know " + repr([value for value in os.environ.values() if BIRD in value]))
"""


def plant(root: Path) -> dict[str, str]:
    """Fills a home folder, and a folder on Python's path; returns the environment of the person at home there."""
    home, shouting = root / "home", root / "shouting"
    for name, text in AT_HOME.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    shouting.mkdir()
    (shouting / "sitecustomize.py").write_text(SHOUT)
    tasks = root / "tasks"
    tasks.mkdir()
    for name, text in {
        "shouts.yaml": TASK,
        "evil.py": FAIL,
        "rows.jsonl": '{"question": "1", "answer": "2"}\n',
    }.items():
        (tasks / name).write_text(text)
    return {**VARIABLES, "HOME": str(home), "SFT_SIGNING_KEY_FILE": str(root / "key.pem")}


@dataclass(frozen=True)
class Planted:
    """A folder with a recipe full of canaries, run once.

    Attributes:
        cwd: The folder.
        host: Of a server with rows.
        echo: Of a server that refuses and repeats whatever it is told.
        environment: Of the person.
        out: What the run printed.
        status: How it ended.
        arguments: Of the processes that the run started.
        asked: Headers and paths that the server with rows was asked with.
    """

    cwd: Path
    host: str
    echo: str
    environment: dict[str, str]
    out: str
    status: int
    arguments: frozenset[str]
    asked: list[dict[str, str]]

    @property
    def run(self) -> Path:
        """The folder of the first run."""
        return next(
            file.parent
            for file in self.cwd.glob("runs/recipe-*/run.json")
            if json.loads(file.read_text())["command"] == ["sft", "run", "recipe.yaml"]
        )

    def sft(self, *arguments: str, **environment: str) -> Answer:
        return sft(*arguments, cwd=self.cwd, **{**self.environment, **environment})

    def leaks(self, *answers: Answer) -> list[str]:
        """Where a canary is, as it is or in base64: in what was printed, and in every file but the planted ones."""
        found = [f"the output: {place}" for answer in answers if (place := _canary((answer.out + answer.err).encode()))]
        home = Path(self.environment["HOME"])
        planted = {self.cwd / "recipe.yaml", *(home / name for name in AT_HOME)}
        folders = (self.cwd, home, Path(self.environment["TMPDIR"]))
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        written = [file for file in files if file not in planted]
        return found + [f"{file}: {place}" for file in written if (place := _canary(file.read_bytes()))]


def _canary(content: bytes) -> str | None:
    """Return what is around the first canary; None if there is none."""
    if (place := content.find(b"canary")) >= 0:
        return repr(content[max(0, place - 80) : place + 40])
    for token in re.finditer(rb"[A-Za-z0-9+/_-]{12,2000}", content):
        text = token[0].translate(bytes.maketrans(b"-_", b"+/"))
        for shift in range(4):
            part = text[shift:]
            try:
                if b"canary" in base64.b64decode(part[: len(part) // 4 * 4]):
                    return repr(token[0])
            except binascii.Error:
                continue
    return None


@contextmanager
def echoing() -> Iterator[str]:
    """Serves refusals that hold all that came with the request, also what a login says once it is decoded."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Says nothing."""

        def refuse(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            told = {name: value for name, value in self.headers.items()}  # noqa: C416 - a message is no dict
            login = self.headers.get("Authorization", "").partition(" ")[2]
            try:
                told["login"] = base64.b64decode(login).decode()
            except (binascii.Error, UnicodeDecodeError):
                told["login"] = login
            facts = {"message": f"I refuse {told} at {self.path}", "body": body.decode(errors="replace")[:2000]}
            answer = json.dumps({**facts, "error": facts["message"], "detail": told}).encode()
            self.send_response(403 if "v1" not in self.path else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Error-Message", facts["message"].replace("\n", " ")[:500])
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = refuse

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
