"""A text loses its secrets, and nothing else."""

from __future__ import annotations

import pytest

from sft.errors import Problem
from sft.redaction import redact, redacted, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://me:canary@host/key", "s3://***@host/key"),
        ("postgres://me:can@ry@host/db", "postgres://***@host/db"),
        ("redis://:canary@host", "redis://***@host"),
        ("https://host/x?rows=3&X-Amz-Signature=canary&a=1", "https://host/x?rows=3&X-Amz-Signature=***&a=1"),
        ("https://host/x?sig=canary", "https://host/x?sig=***"),
        ("{'Authorization': 'Bearer canary'}", "{'Authorization': 'Bearer ***'}"),
        ("authorization: Basic canary", "authorization: Basic ***"),
        ("sent bearer canary-canary", "sent bearer ***"),
        ("with hf_canarycanarycanarycanary", "with ***"),
        ("{b'Authorization': b'Basic canary'}", "{b'Authorization': b'Basic ***'}"),
        ("x-api-key: canary", "x-api-key: ***"),
        ("{'X-Amz-Security-Token': 'canary'}", "{'X-Amz-Security-Token': '***'}"),
        ("PRIVATE-TOKEN: canary", "PRIVATE-TOKEN: ***"),
        ("Set-Cookie: session=canary; Path=/", "Set-Cookie: ***"),
    ],
)
def test_a_secret_is_known_by_where_it_stands_or_how_it_looks(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8080/x@y",
        "hf://org/name:config@revision",
        "synthetic://spell-numbers?rows=3000&seed=0",
        "sqlite:////home/ada/mlflow.db",
        "the bearer of news",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_named_variables_are_masked_also_as_a_uri_quotes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", 'can"ary/1')
    monkeypatch.setenv("HF_TOKEN", 'can"ary/1-and-more')
    tree = {"a": ['can"ary/1', ("can%22ary%2F1",)], 'can"ary/1-and-more': 3}
    assert redacted(tree) == {"a": ["***", ["***"]], "***": 3}


FORMS = {
    "https://canary@host/x": "https://***@host/x",
    "git+https://canary@host/x": "git+https://***@host/x",
    "https://canary:x-oauth-basic@host": "https://***@host",
    "https://h/x?X-Amz-Credential=canary&X-Amz-Date=1": "https://h/x?X-Amz-Credential=***&X-Amz-Date=1",
    "https://h/x?X-Amz-Security-Token=canary": "https://h/x?X-Amz-Security-Token=***",
    "https://h/x?X-Goog-Signature=canary": "https://h/x?X-Goog-Signature=***",
    "https://h/x?Policy=canary&Signature=canary&Key-Pair-Id=K": "https://h/x?Policy=***&Signature=***&Key-Pair-Id=K",
    "https://h/x#access_token=canary": "https://h/x#access_token=***",
    "https://h/x?my_pat=canary": "https://h/x?my_pat=***",
    "https://h/x?db_pass=canary": "https://h/x?db_pass=***",
    "abfs://container@account/x": "abfs://container@account/x",
    "ssh://git@host/x": "ssh://git@host/x",
}


@pytest.mark.parametrize("text", FORMS)
def test_a_login_in_an_address_is_masked_and_the_rest_is_not(text: str) -> None:
    assert redact(text) == FORMS[text]


@pytest.mark.parametrize("most", range(5, 20))
def test_a_text_that_is_cut_shows_no_half_of_a_secret(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "canary-1234")
    assert "can" not in shortened("I know canary-1234 of you", most)
    told = str(Problem(key="name", value="x" * (80 + most) + "canary-1234" + "y" * 200, rule="is too long"))
    assert "can" not in told
