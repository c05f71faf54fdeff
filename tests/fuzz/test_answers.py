"""Whatever a server answers or a run folder's curve holds: it is read, it may pass, or it is refused in words."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from urllib3 import HTTPHeaderDict

from sft.adapters import chat_completions, http
from sft.adapters.evaluation.judge import verdict
from sft.adapters.retry import RetryPolicy, TemporaryError, retry_after_seconds
from sft.adapters.upload import oci_client
from sft.adapters.upload.oci_answer import Answer
from sft.errors import SftError
from sft.gate_rules import parse_gates
from sft.report.comparison.rows import Row, _measure
from tests.fuzz.search import search
from tests.fuzz.test_parsers import JSON

HEADERS = b"""\
206
Content-Range: bytes 300-999/1000
Content-Length: 700
Content-Type: application/octet-stream
ETag: "0123"
Retry-After: 5
"""
HEADER_TOKENS = [
    *(b"200", b"416", b"429", b"503", b"bytes ", b"0-999/1000", b"300-999/*", b"-", b"/", b"*", b"\xb2", b"9" * 5000),
    *(b"Content-Range: ", b"Content-Length: ", b"Retry-After: ", b"Last-Modified: ", b'W/"1"', b"text/html", b"\n"),
    *(b"Fri, 31 Dec 2099 23:59:59 GMT", b"Fri, 31 Dec 9999 23:59:59 +9999", b"Thu, 01 Jan 1970", b"-1", b"1e9", b":"),
]


def answer_of(content: bytes) -> Any:
    """An answer as urllib3 gives it: a status, and headers decoded as Latin-1."""
    status, _, rest = content.decode("latin-1").partition("\n")
    headers = HTTPHeaderDict()
    for line in rest.splitlines():
        name, _, value = line.partition(":")
        headers.add(name.strip(), value.strip())
    return SimpleNamespace(status=int(status) if re.fullmatch("[1-5][0-9]{2}", status) else 200, headers=headers)


def test_headers_of_a_download_are_taken_or_refused() -> None:
    url = "http://data.example/rows.jsonl"

    def parse(content: bytes) -> None:
        answer = answer_of(content)
        http._check_status(answer, url)
        if answer.status == 206:
            http._check_part(answer, 300, '"0123"')
        total = http._total(answer, 300)
        http._check_content(answer, url, total, 10_000)
        assert total is None or 300 <= total <= 10_000

    search(parse, [HEADERS], HEADER_TOKENS, refused_by=(SftError, TemporaryError))


def test_no_header_makes_a_pause_that_is_longer_than_the_longest() -> None:
    policy = RetryPolicy()

    def parse(content: bytes) -> None:
        asked = retry_after_seconds(content.decode("latin-1"))
        assert 0 <= policy.pause_seconds(1, asked) <= policy.longest_wait_seconds

    dates = [b"Fri, 31 Dec 2099 23:59:59 GMT", b"Thu, 01 Jan 1970 00:00:00 +0000"]
    search(parse, [b"120", *dates], [*HEADER_TOKENS, b"9999", b"+9999", b"-0000", b"0000", b"Feb", b"60"])


def test_a_registrys_errors_and_challenges_are_read(tmp_path: Path) -> None:
    refusal = b'{"errors": [{"code": "DENIED", "message": "no", "detail": {}}]}'
    unnamed = b'{"errors": [{"code":"", "essage": "no", "detail": {}}]}'  # found: no reason was shown at all
    challenge = b'Bearer realm="https://auth.example/token",service="registry",scope="repository:org/model:pull"'

    def parse(content: bytes) -> None:
        assert Answer(403, {}, content).why
        found = dict(oci_client._CHALLENGE.findall(content.decode("latin-1")))
        assert all(isinstance(value, str) for value in found.values())

    search(
        parse,
        [refusal, unnamed, challenge],
        [*JSON, b'realm="', b'"', b"=", b",", b'"code"', b'"message"', b'"errors"'],
    )


def test_a_judges_answer_is_a_completion_or_asked_for_again() -> None:
    choice = {"message": {"role": "assistant", "content": "Both.\n[[TIE]]"}, "finish_reason": "stop"}
    seed = json.dumps({"model": "judge", "choices": [choice], "usage": {"total_tokens": 9, "details": {"a": 1}}})

    def parse(content: bytes) -> None:
        answer = chat_completions._answer(content)
        assert isinstance(answer.text, str)
        for swapped in (False, True):
            assert verdict(answer.text, swapped=swapped) in {"base", "tuned", "tie", None}

    tokens = [
        *JSON,
        b"[[A]]",
        b"[[b]]",
        b"[[",
        b"]]",
        b'"content"',
        b'"choices"',
        b'"usage"',
        b'"message"',
        b"\\n" * 99,
    ]
    search(parse, [seed.encode()], tokens, refused_by=TemporaryError)


def test_a_curve_is_drawn_or_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [
        {"step": n, "epoch": 0, "loss": 1.5, "seconds": 0.5, "num_tokens": 9, "memory_bytes": 99, "learning_rate": 1e-5}
        for n in (1, 2, 3)
    ]

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        row = Row(number=1, run="run", folder="folder", values={}, status="done")
        _measure(row, file)
        assert row.reason is None or str(file) in row.reason
        numbers = [row.tokens_per_second or 0.0, *(number for point in row.curve for number in point)]
        assert all(math.isfinite(float(number)) for number in numbers)

    seed = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    search(parse, [seed], [*JSON, b'"step"', b'"loss"', b'"seconds"', b"0", b"-1", b"1e308"])


def test_a_gate_is_a_comparison_or_refused() -> None:
    def parse(content: bytes) -> None:
        for gate in parse_gates(content.decode("utf-8", "replace")):
            assert math.isfinite(gate.bound)
            limit = gate.limit(0.5)
            assert gate.holds(limit, limit) is (gate.sign in {">=", "<="})

    seeds = [b">= 0.6", b"< baseline - 0.01", b"improvement > -0.5 and <= 1e-3", b">= baseline"]
    tokens = [
        b" and ",
        b">",
        b"=",
        b"<",
        b"baseline",
        b"improvement",
        b"+",
        b"-",
        b".",
        b"e",
        b"1e999",
        b"nan",
        b" " * 99,
    ]
    search(parse, seeds, [*tokens, "²".encode(), b"9" * 400, b"1" * 5000], refused_by=ValueError)
