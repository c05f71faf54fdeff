"""What is known of a remote source before it is asked; real servers are in tests/integration."""

from __future__ import annotations

import pytest

from sft.adapters import storage
from sft.errors import DataError


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(DataError, match="nosuch"):
        storage.find("nosuch://bucket/key", {})


def test_half_of_the_aws_keys_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(DataError, match="AWS_SECRET_ACCESS_KEY is not"):
        storage.find("s3://bucket/key.jsonl", {})
