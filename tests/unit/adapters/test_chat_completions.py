"""What a client of chat completions makes of a server that is busy, broken, slow or hostile; the server is real."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.chat_completions import ChatServer
from sft.adapters.retry import RetryPolicy
from sft.errors import StageError
from tests.servers.judge import MODEL, JudgeServer, always, serving
from tests.support.canaries import echoing

BODY = {"messages": [{"role": "user", "content": "<answer A 0>\n1\n</answer A 0>\n<answer B 0>\n2\n</answer B 0>"}]}
KEY = "not-a-real-key-0123456789"


def client(server: JudgeServer, **changes: Any) -> ChatServer:
    retry = RetryPolicy(max_attempts=changes.pop("max_attempts", 4), first_wait_seconds=0.0)
    return ChatServer(address=server.address, retry=retry, **changes)


def test_an_answer_says_who_gave_it_and_why_it_ended() -> None:
    with serving(JudgeServer(always("yes"))) as server:
        answer = client(server, key=KEY).ask(BODY)
    assert (answer.text, answer.model, answer.finish_reason) == ("yes", MODEL, "stop")
    assert answer.usage == {"total_tokens": 9}
    [(headers, body)] = server.requests
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == BODY


def test_without_a_key_none_is_sent() -> None:
    with serving(JudgeServer(always("yes"))) as server:
        client(server).ask(BODY)
    assert "authorization" not in server.requests[0][0]


@pytest.mark.parametrize(
    ("trouble", "num_failures"),
    [
        ({"statuses": [429, 500, 503], "retry_after": "0"}, 3),
        ({"statuses": [408, 502]}, 2),
        ({"bodies": [b'{"choices": [', b"<html>", b""]}, 3),
        ({"bodies": [b'{"choices": []}', b'{"choices": [{"message": "text"}]}', b"[]"]}, 3),
    ],
    ids=["busy", "failing", "broken JSON", "other JSON"],
)
def test_what_may_pass_is_repeated(trouble: dict[str, Any], num_failures: int) -> None:
    with serving(JudgeServer(always("yes"), **trouble)) as server:
        assert client(server).ask(BODY).text == "yes"
    assert len(server.requests) == num_failures + 1


def test_a_server_that_keeps_failing_is_given_up_with_its_last_words() -> None:
    with (
        serving(JudgeServer(always("yes"), statuses=[500] * 9)) as server,
        pytest.raises(
            StageError,
            match=r"answers 500 .*status 500.*; given up after 3 attempts in a row\n  try: repeat",
        ),
    ):
        client(server, max_attempts=3).ask(BODY)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, r"refuses the request \(400\)[\s\S]*try: check the address"),
        (401, r"refuses access[\s\S]*try: set the variable that key_env names"),
        (403, "refuses access"),
        (404, r"refuses the request \(404\): .*status 404[\s\S]*the name of the model"),
        (410, "refuses the request"),
        (302, "leads elsewhere"),
    ],
)
def test_what_can_only_come_again_is_not_repeated(status: int, message: str) -> None:
    with serving(JudgeServer(always("yes"), statuses=[status] * 4)) as server, pytest.raises(StageError, match=message):
        client(server, key=KEY).ask(BODY)
    assert len(server.requests) == 1


def test_a_server_that_echoes_the_key_does_not_bring_it_into_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    with (
        serving(JudgeServer(always("yes"), bodies=[f"wrong key {KEY}".encode()])) as server,
        pytest.raises(StageError, match="not a chat completion") as caught,
    ):
        client(server, key=KEY, max_attempts=1).ask(BODY)
    assert KEY not in str(caught.value)
    assert KEY not in repr(client(server, key=KEY))


def test_an_answer_that_comes_a_byte_at_a_time_is_too_slow() -> None:
    with (
        serving(JudgeServer(always("yes"), stall_seconds=0.05)) as server,
        pytest.raises(StageError, match=r"took longer than 0\.5 s; given up"),
    ):
        client(server, timeout_seconds=0.5, max_attempts=1).ask(BODY)


def test_an_endless_answer_is_refused() -> None:
    with (
        serving(JudgeServer(always("yes"), bodies=[b" " * 10_000_001])) as server,
        pytest.raises(StageError, match="more than 10,000,000 bytes"),
    ):
        client(server).ask(BODY)


def test_a_server_that_is_not_there_is_said_to_be_out_of_reach() -> None:
    with serving(JudgeServer(always("yes"))) as server:
        gone = client(server, max_attempts=2)
    with pytest.raises(StageError, match=r"can't be reached or broke off"):
        gone.ask(BODY)


def test_a_server_that_repeats_the_key_does_not_give_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'canary-1234/"key'
    monkeypatch.setenv("JUDGE_KEY", key)
    with echoing() as host, pytest.raises(StageError, match="I refuse") as refused:
        ChatServer(address=f"http://{host}/v1", key=key).ask(BODY)
    assert "***" in str(refused.value)
    assert "canary" not in str(refused.value)
