"""No secret gets into a text that leaves the process."""

from __future__ import annotations

import pytest

from sft.logs import is_secret_name, redact, redacted


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


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "account_key", "password", "Authorization", "connection_string"]
)
def test_these_names_are_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["max_new_tokens", "max_tokens_per_gpu", "pad_token_id", "TOKENIZERS_PARALLELISM", "SFT_SIGNING_KEY_FILE"]
)
def test_these_names_are_not(name: str) -> None:
    assert not is_secret_name(name)
