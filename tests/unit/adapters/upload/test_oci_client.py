"""What a client of OCI registries makes of one that refuses, is busy, lies or leads elsewhere; the servers are real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sft.adapters.retry import RetryPolicy
from sft.adapters.upload import oci_client
from sft.adapters.upload.login import Login
from sft.adapters.upload.oci_client import Repository, _is_local
from sft.errors import StageError
from tests.servers.scripted import Answer, Request, serving

DIGEST = f"sha256:{'0' * 64}"
BASIC = {"WWW-Authenticate": "Basic realm=x"}


@pytest.fixture(autouse=True)
def _login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_USERNAME", "ada")
    monkeypatch.setenv("OCI_PASSWORD", "canary-registry-word")
    monkeypatch.setattr(oci_client, "_RETRY", RetryPolicy(max_attempts=3, first_wait_seconds=0.0))


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    file = tmp_path / "blob"
    file.write_bytes(b"weights")
    return file


def refusal(status: int, code: str) -> Answer:
    return Answer(status, json.dumps({"errors": [{"code": code, "message": f"said {code}"}]}).encode())


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("ghcr.io", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(host: str, here: bool) -> None:
    assert _is_local(host) is here


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal(400, "NAME_INVALID"), r"NAME_INVALID: said NAME_INVALID[\s\S]*try: check registry\.upload"),
        (refusal(401, "UNAUTHORIZED"), r"refuses the login[\s\S]*try: docker login"),
        (refusal(403, "DENIED"), r"DENIED: said DENIED\): it refuses the login[\s\S]*OCI_USERNAME"),
        (refusal(404, "NAME_UNKNOWN"), r"NAME_UNKNOWN[\s\S]*try: check registry\.upload"),
        (Answer(410, b"[" * 50_000), r"answers 410 \(Gone\)"),
        (Answer(307, headers={"Location": "http://127.0.0.1:1/"}), "answers 307"),
        (Answer(202), "does not say where an upload goes"),
        (Answer(202, headers={"Location": "http://[x"}), "names no address for an upload"),
    ],
)
def test_what_can_only_come_again_is_asked_once(answer: Answer, said: str, blob: Path) -> None:
    with serving(lambda _: answer) as server, pytest.raises(StageError, match=said):
        Repository(server.host, "org/model").push(blob, DIGEST, lambda _: None)
    assert len(server.requests) == 1


def test_an_upload_that_can_not_be_given_up_is_begun_once() -> None:
    begun = Answer(202, headers={"Location": "/v2/org/model/blobs/uploads/1"})
    with serving(lambda request: begun if request.method == "POST" else Answer(503)) as server:
        Repository(server.host, "org/model").check_push()
    assert [request.method for request in server.requests].count("POST") == 1


@pytest.mark.parametrize("busy", [429, 503])
def test_a_busy_registry_says_when_but_not_in_a_hundred_years(
    busy: int, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    answers = [Answer(busy, headers={"Retry-After": text}) for text in ("5", "1000000000")]
    with serving(lambda _: answers.pop(0) if answers else Answer(200)) as server:
        Repository(server.host, "org/model").has(DIGEST, 0)
    assert pauses == [5.0, 60.0]


def to_elsewhere(location: str) -> Callable[[Request], Answer]:
    """Return what a registry answers that wants its blobs elsewhere, and first of all a login."""

    def answer(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return Answer(401, headers=BASIC)
        return Answer(202, headers={"Location": location})

    return answer


def test_an_upload_goes_to_another_host_without_the_login(blob: Path) -> None:
    with (
        serving(lambda _: Answer(201)) as storage,
        serving(to_elsewhere(f"{storage.address}/put?at=1")) as server,
    ):
        Repository(server.host, "org/model").push(blob, DIGEST, lambda _: None)
    assert "authorization" in server.requests[-1].headers
    [request] = storage.requests
    assert (request.method, request.content) == ("PUT", b"weights")
    assert "authorization" not in request.headers


def test_a_login_is_not_sent_in_the_clear_to_a_registry_that_has_tls(blob: Path) -> None:
    repository = Repository("registry.example", "org/model")
    with pytest.raises(StageError, match="wants an upload without TLS"):
        repository._upload_place("http://registry.example/v2/put")
    assert repository._upload_place("/v2/put") == "https://registry.example/v2/put"
    assert repository._upload_place("https://storage.example/put") == "https://storage.example/put"


def test_a_blob_behind_a_redirect_is_looked_for_without_the_login() -> None:
    def answer(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return Answer(401, headers=BASIC)
        return Answer(307, headers={"Location": f"{storage.address}/blob"})

    with serving(lambda _: Answer(200)) as storage, serving(answer) as server:
        assert Repository(server.host, "org/model").has(DIGEST, 0)
    assert ["authorization" in request.headers for request in storage.requests] == [False]


def test_an_identity_token_is_not_sent_on_by_the_token_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_client, "login", lambda _, **__: Login(identity_token="canary-identity"))
    with (
        serving(lambda _: Answer(200, b'{"token": "t"}')) as thief,
        serving(lambda _: Answer(307, headers={"Location": thief.address})) as tokens,
        serving(
            lambda _: Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{tokens.address}/token"'})
        ) as server,
        pytest.raises(StageError, match="its token server answers 307"),
    ):
        Repository(server.host, "org/model").has(DIGEST, 0)
    assert [b"canary-identity" in request.content for request in tokens.requests] == [True]
    assert thief.requests == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 50_000, b'"token"', b"null"])
def test_a_token_server_that_answers_no_token_is_said_once(content: bytes) -> None:
    with (
        serving(lambda _: Answer(200, content)) as tokens,
        serving(lambda _: Answer(401, headers={"WWW-Authenticate": f'Bearer realm="{tokens.address}"'})) as server,
        pytest.raises(StageError, match="answers no token"),
    ):
        Repository(server.host, "org/model").has(DIGEST, 0)
    assert len(tokens.requests) == 1


def test_an_answer_without_end_is_not_taken_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_client, "_MOST_BYTES", 1000)
    with (
        serving(lambda _: Answer(200, b" " * 1001)) as server,
        pytest.raises(StageError, match="more than 1,000"),
    ):
        Repository(server.host, "org/model").manifest(DIGEST)


def test_a_size_that_is_none_is_another_one() -> None:
    odd = Answer(200)
    with serving(lambda _: replace(odd, headers={"Content-Length": "7"})) as server:
        repository = Repository(server.host, "org/model")
        assert (repository.has(DIGEST, 7), repository.has(DIGEST, 8)) == (True, False)
