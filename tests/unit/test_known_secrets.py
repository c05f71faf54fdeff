"""Every secret is known, in each form in which a text may hold it; one that can't be masked is named."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml

from sft.config.setting_names import schema_keys
from sft.known_secrets import is_secret_name, unmasked
from sft.logs import configure, learn, remember
from sft.planning.stage_spec import STAGES
from sft.redaction import redact, redacted


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
        (".cache/huggingface/stored_tokens", "[mine]\nhf_token = canary-1234\n"),
        (".aws/config", "[default]\naws_session_token=canary-1234\n"),
        (".kube/config", "users:\n- name: me\n  user:\n    token: canary-1234\n"),
        (".kube/config", "users: [{user: x}]\n    client-key-data: 'canary-1234'\n"),
        (".config/containers/auth.json", '{"auths": {"quay.io": {"identitytoken": "canary-1234"}}}'),
        (".docker/config.json", '{"auths": {"ghcr.io": {"auth": "bWU6Y2FuYXJ5LTEyMzQ="}}}'),
        (".mlflow/credentials", "[mlflow]\nmlflow_tracking_password = canary-1234\n"),
        (".git-credentials", "https://me:canary-1234@github.com\n"),
        (".config/rclone/rclone.conf", "[s3]\nsecret_access_key = canary-1234\n"),
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
    for variable in ("HF_HOME", "HF_TOKEN_PATH", "NETRC", "AWS_SHARED_CREDENTIALS_FILE", "KUBECONFIG", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert redact("a canary-1234 b") == "a *** b"


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("HF_HOME", "huggingface/token"),
        ("HF_TOKEN_PATH", "elsewhere"),
        ("DOCKER_CONFIG", "docker/config.json"),
        ("KUBECONFIG", "a/config"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "account.json"),
    ],
)
def test_a_variable_says_where_a_login_is_kept(
    variable: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"config": "  token: canary-1234\n", "account.json": '{"private_key": "canary-1234"}'}
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(texts.get(file.name, '"auth": "canary-1234"' if file.suffix else "canary-1234"))
    is_folder = variable in {"HF_HOME", "DOCKER_CONFIG"}
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv(variable, str(file.parent if is_folder else file))
    assert redact("a canary-1234 b") == "a *** b"


@pytest.mark.parametrize(
    "address",
    [
        "http://me:canary-1234@proxy:3128",
        "postgresql+psycopg2://me:canary-1234@host/db",
        "https://canary-1234@host",
        "https://canary-1234:x-oauth-basic@host",
        "https://host/x?sig=canary-1234",
        "http://me:canary%2D1234@proxy",
    ],
    ids=["proxy", "database", "token", "token and word", "query", "quoted"],  # pytest puts an id into the environment
)
def test_what_an_address_in_the_environment_or_the_settings_holds_is_masked_also_alone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "canary" in redact("password canary-1234 is wrong")
    with monkeypatch.context() as patch:
        patch.setenv("SOMETHING_URL", address)
        assert redact("password canary-1234 is wrong") == "password *** is wrong"
    learn({"dataset": {"uris": [address]}})
    assert redact("password canary-1234 is wrong") == "password *** is wrong"


HARD = "pä'ss\"wo\\rd&<1>/+= x"


@pytest.mark.parametrize(
    "written",
    [
        str,
        quote,
        lambda value: quote(value, safe=""),
        quote_plus,
        lambda value: quote(value, safe="").replace("%2F", "%2f").replace("%C3%A4", "%c3%a4").lower(),
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        repr,
        ascii,
        html.escape,
        lambda value: html.escape(value, quote=False),
        shlex.quote,
        lambda value: yaml.safe_dump({"a": value}, allow_unicode=True),
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(f"me:{value}".encode()).decode(),
        lambda value: base64.b64encode(f"me2:{value}\n".encode()).decode(),
        lambda value: base64.urlsafe_b64encode(f"x:{value}:y".encode()).decode(),
    ],
)
@pytest.mark.parametrize("secret", [HARD, "canary-1234", "????>>>>~~~~ÿÿ"])
def test_a_secret_is_masked_however_it_is_written(
    secret: str, written: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_PASSWORD", secret)
    masked = redact(f"before {written(secret)} after")
    assert "***" in masked
    core = written(secret).strip("'\"\n=")[4:-4]
    assert core not in masked


def test_a_key_of_several_lines_is_masked_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", "MIGHAgEAMBMGByqGSM49", "AgEGCCqGSM49AwEHBG0w", "-----END PRIVATE KEY-----"]
    for separator in ("\n", "\r\n", "\\n"):
        monkeypatch.setenv("A_PRIVATE_KEY", separator.join(lines) + separator)
        assert redact("a MIGHAgEAMBMGByqGSM49") == "a ***"
        assert redact("\\n".join(lines)) == "***" or "MIGHA" not in redact("\\n".join(lines))


OWN = sorted({part for key in schema_keys() for part in key.split(".")} | {*STAGES, "model.safetensors", "run.json"})


@pytest.mark.parametrize("word", [word for word in OWN if len(word) >= 6])
def test_a_password_that_is_a_word_of_ours_damages_no_record(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"config": {word: {"image_pull_secrets": [f"{word}-7"]}}, "files": {f"model/{word}": "0" * 64}}
    for value in (word, word.upper(), word[:6], word[-6:]):
        monkeypatch.setenv("A_PASSWORD", value)
        assert redacted(record) == record
        assert unmasked()["A_PASSWORD"] == "is a word that sft itself writes"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("hello", "is shorter than 6 characters"),
        ("1234", "is shorter than 6 characters"),
        ("tokenizer", "is a word that sft itself writes"),
    ],
)
def test_a_secret_that_is_not_masked_is_named_once(
    value: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_PASSWORD", value)
    said = f"warning: A_PASSWORD {why}: it is not masked in what is printed and recorded; change it\n"
    for _ in range(2):
        configure(debug=False)
    assert capsys.readouterr().err == said
    remember(value, whose="the registry's login")
    assert f"warning: the registry's login {why}" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", "true", "1", "off", "NONE", "300"])
def test_a_switch_or_a_count_is_no_secret(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", value)
    assert unmasked() == {}
    assert redacted({"a": f"x {value} y"}) == {"a": f"x {value} y"}


def test_a_password_within_a_digest_leaves_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PASSWORD", "abc123")
    digest = "abc123" + "0" * 58
    assert redacted({"a": digest, "b": f"sha256:{digest}", "c": "x abc123"}) == {
        "a": digest,
        "b": f"sha256:{digest}",
        "c": "x ***",
    }
    monkeypatch.setenv("A_PASSWORD", digest)
    assert redacted([digest]) == ["***"]
