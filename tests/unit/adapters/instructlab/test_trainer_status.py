"""The progress of a TrainJob, as Kubeflow Trainer's server takes it; what it refuses stops no training."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.monitor import TrainingProgress
from sft.adapters.instructlab.trainer_status import CA, TOKEN, URL, TrainerStatus

ROW = {"step": 3, "epoch": 0, "loss": 0.51234567, "learning_rate": 1e-5, "tokens_per_second": 9210.4}
PROGRESS = TrainingProgress(ROW, num_steps=12, num_epochs=1, seconds_left=41.6)


class Server(HTTPServer):
    """Trainer's, for one token."""

    token = "first"
    moved_to = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers))
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        allowed = self.headers["authorization"] == f"Bearer {self.server.token}"
        if allowed:
            self.server.taken.append(content["trainerStatus"])
        self.send_response(302 if self.server.moved_to else 200 if allowed else 403)
        if self.server.moved_to:
            self.send_header("location", self.server.moved_to)
        self.end_headers()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        (tmp_path / "token").write_text("first\n")
        monkeypatch.setenv(URL, f"http://127.0.0.1:{one.server_port}/trainjobs/sft/run/status")
        monkeypatch.setenv(TOKEN, str(tmp_path / "token"))
        monkeypatch.delenv(CA, raising=False)
        yield one
        one.shutdown()
        thread.join()


def test_the_status_has_percent_time_and_metrics_as_texts(server: Server) -> None:
    said: list[str] = []
    TrainerStatus(said.append).tell(PROGRESS)
    [status] = server.taken
    assert (status["progressPercentage"], status["estimatedRemainingSeconds"]) == (25, 42)
    assert {metric["name"]: metric["value"] for metric in status["metrics"]} == {
        "loss": "0.512346",
        "learning_rate": "1e-05",
        "tokens_per_second": "9210.4",
        "step": "3",
        "epoch": "0",
    }
    assert datetime.fromisoformat(status["lastUpdatedTime"]).tzinfo is not None
    assert said == []


def test_a_token_that_was_replaced_is_read_again(server: Server, tmp_path: Path) -> None:
    status = TrainerStatus(lambda _: None)
    status.tell(PROGRESS)
    server.token = "second"
    (tmp_path / "token").write_text("second")
    status.tell(PROGRESS)
    assert len(server.taken) == 2


def test_what_is_refused_is_said_once_and_raises_nothing(server: Server) -> None:
    said: list[str] = []
    status = TrainerStatus(said.append)
    server.token = "another"
    status.tell(PROGRESS)
    status.tell(PROGRESS)
    [line] = said
    assert "403" in line
    assert "the training goes on" in line


def test_a_redirect_gets_no_token(server: Server) -> None:
    said: list[str] = []
    server.moved_to = f"http://127.0.0.1:{server.server_port}/elsewhere"
    TrainerStatus(said.append).tell(PROGRESS)
    [line] = said
    assert "302" in line
    assert server.asked == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "nonsense"])
def test_a_server_that_is_not_there_raises_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv(URL, url)
    monkeypatch.delenv(TOKEN, raising=False)
    TrainerStatus(said.append).tell(PROGRESS)
    assert len(said) == 1


def test_without_the_feature_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    said: list[str] = []
    TrainerStatus(said.append).tell(PROGRESS)
    assert said == []
