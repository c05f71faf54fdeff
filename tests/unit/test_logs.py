"""No secret gets into a text that leaves the process."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sft
from sft import logs
from sft.adapters.os.process import supervise
from sft.logs import is_secret_name, redact, redacted, remember


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


@pytest.mark.parametrize(
    "name",
    ["OPENAI_KEY", "DB_PASS", "GITHUB_PAT", "MYSQL_PWD", "SENTRY_DSN", "ANTHROPIC_API_KEY", "SIGSTORE_ID_TOKEN", "KEY"],
)
def test_short_names_of_secrets_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary-1234")
    assert redact("a canary-1234 b") == "a *** b"


@pytest.mark.parametrize(
    "name", ["COMPASS", "PATH", "PWD", "OLDPWD", "MONKEY", "KEYBOARD", "SSH_KEY_PATH", "registry.storage_key"]
)
def test_names_that_only_look_like_one_are_not(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".cache/huggingface/token", "canary-1234\n"),
        (".netrc", "machine host login me password canary-1234\n"),
        (".aws/credentials", "[default]\naws_access_key_id = A\naws_secret_access_key = canary-1234\n"),
        (".docker/config.json", '{"auths": {"ghcr.io": {"auth": "canary-1234"}}}'),
    ],
)
def test_what_a_person_logged_in_with_is_masked(
    file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("HF_TOKEN_PATH", "NETRC", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    logs._kept_by_tools.cache_clear()
    try:
        assert redact("a canary-1234 b") == "a *** b"
    finally:
        logs._kept_by_tools.cache_clear()


def test_a_secret_that_was_met_on_the_way_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_remembered", set())
    remember("canary-1234", "")
    assert redact("a canary-1234 b") == "a *** b"


def test_a_password_that_is_a_word_of_a_setting_leaves_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PASSWORD", "secret")
    tree = {"launcher": {"image_pull_secrets": ["secret"]}, "secret-7": 1}
    assert redacted(tree) == {"launcher": {"image_pull_secrets": ["***"]}, "***-7": 1}


def test_no_way_of_printing_goes_past_the_mask(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from sft.logs import mask_streams\n"
        "mask_streams()\n"
        "for stream in (sys.stdout, sys.stderr):\n"
        "    stream.write('canary-1234 write\\n')\n"
        "    stream.writelines(['canary-1234 writelines\\n'])\n"
        "    stream.flush()\n"
        "    stream.buffer.write(b'canary-1234 buffer\\n')\n"
        "    stream.buffer.writelines([b'canary-1234 buffer lines\\n'])\n"
        "    stream.buffer.flush()\n"
        "    print('canary-1234 print', file=stream, flush=True)\n"
        "    os.write(stream.fileno(), b'canary-1234 descriptor\\n')\n"
        "subprocess.run(['sh', '-c', 'echo $A_TOKEN of a grandchild'])\n"
    )
    log = tmp_path / "log.txt"
    assert supervise([sys.executable, "-c", code], log=log, env={"A_TOKEN": "canary-1234"}) == 0
    text = log.read_text()
    assert "canary" in text  # the parent has not the child's variable, so what goes past the child's own mask shows
    os.environ["A_TOKEN"] = "canary-1234"
    try:
        log.unlink()
        assert supervise([sys.executable, "-c", code], log=log) == 0
    finally:
        del os.environ["A_TOKEN"]
    assert log.read_text().count("***") == 13
    assert "canary" not in log.read_text()


AT_THE_BEGINNING = {"sft.chat.turn_tokens._INLINE_REASONING"}
"""Patterns that are only matched at the beginning of a text."""


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Every pattern that a module of ours holds."""
    for module in pkgutil.walk_packages(sft.__path__, "sft."):
        if ".rank" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else [value]
            for pattern in held:
                if isinstance(pattern, re.Pattern):
                    yield f"{module.name}.{name}", pattern


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_pattern_of_ours_takes_forever() -> None:
    """A pattern that is quadratic takes hours for these texts, a linear one milliseconds."""
    pieces = [
        "eyJ-",
        "sk-",
        "a:",
        "token",
        "{{",
        "${",
        "bearer ",
        "://",
        "a.b-",
        "a=",
        "<think>",
        "\n",
        *string.punctuation,
    ]
    texts = [piece * (200_000 // len(piece)) for piece in [*pieces, "a", "A", "0", " "]]
    checked = 0
    for name, pattern in patterns():
        for text in texts:
            subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
            pattern.match(subject)
            if name not in AT_THE_BEGINNING:
                pattern.search(subject)
        checked += 1
    assert checked > 40
