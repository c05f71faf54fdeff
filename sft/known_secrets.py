"""Owns which secrets this process knows, and every form in which one of them can stand in a text.

Known are the values of variables that are named like a secret, what tools keep of a person's logins, and what was met
on the way (`remember`). Does not own how a secret is known by where it stands or how it looks: that is `sft.logs`.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

_SECRET_NAME = re.compile(
    r"token|secret|passw(or)?d|passphrase|credential|authorization|cookie|signature|connection_?string|"
    r"(^|[_.-])(pass|pwd|pat|key|jwt|dsn)$|(api|access|account|private|signing|encryption|sas|auth|subscription)_?key",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"(max|min|num|new|n)_?tokens|tokens_per|token_?(id|type|accuracy)|tokenizer|(file|path|dir|ur[il])s?$|"
    r"(public|storage|cache|primary|foreign|sort|partition)_?key$|^(OLD)?PWD$",
    re.IGNORECASE,
)
_LONGEST_NAME = 1000
"""A longer name is a text; who names a secret so long has other troubles."""
_PASSWORD = re.compile(r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,31}://[^/\s:@'\"]*:(?P<secret>[^/\s'\"]*)@", re.IGNORECASE)
_TOKEN = re.compile(r"(?<![a-z0-9])https?://(?P<secret>[^/\s:@'\"]{8,})(?::[^/\s:@'\"]*)?@", re.IGNORECASE)
"""A user's name of eight characters may be a token; shorter it is a name."""
_PARAMETER = re.compile(r"[?&;#](?P<name>[\w.-]{1,200})=(?P<secret>[^&;#\s'\"]+)")
_SECRET_PARAMETERS = {"sig", "key", "auth", "pwd", "pass", "pat", "policy", "code", "x-amz-credential"}
_DOCKER = re.compile(r"\"(?:auth|identitytoken|registrytoken|password)\"\s*:\s*\"([^\"]+)\"")
_KUBECONFIG = re.compile(
    r"^ {0,99}(?:- )?(?:token|password|client-key-data|id-token|refresh-token|access-token): {0,9}[\"']?([^\s\"']+)",
    re.MULTILINE,
)
_KEPT_BY_TOOLS = (
    ("HF_TOKEN_PATH", "{hf}/token", re.compile(r"\A\s*(\S+)\s*\Z")),
    ("HF_STORED_TOKENS_PATH", "{hf}/stored_tokens", re.compile(r"^hf_token\s*=\s*(\S+)", re.MULTILINE)),
    ("NETRC", "~/.netrc", re.compile(r"\bpassword\s+(\S+)")),
    (
        "AWS_SHARED_CREDENTIALS_FILE",
        "~/.aws/credentials",
        re.compile(r"aws_(?:access_key_id|secret_access_key|session_token)\s*=\s*(\S+)"),
    ),
    ("AWS_CONFIG_FILE", "~/.aws/config", re.compile(r"aws_(?:secret_access_key|session_token)\s*=\s*(\S+)")),
    ("GOOGLE_APPLICATION_CREDENTIALS", "", re.compile(r"\"(?:private_key|refresh_token)\"\s*:\s*\"([^\"]+)\"")),
    ("", "{docker}/config.json", _DOCKER),
    ("REGISTRY_AUTH_FILE", "~/.config/containers/auth.json", _DOCKER),
    ("KUBECONFIG", "~/.kube/config", _KUBECONFIG),
    ("", "~/.mlflow/credentials", re.compile(r"^mlflow_tracking_password\s*=\s*(\S+)", re.MULTILINE)),
    ("", "~/.git-credentials", _PASSWORD),
    (
        "",
        "~/.config/rclone/rclone.conf",
        re.compile(r"^(?:pass|token|secret_access_key|client_secret)\s*=\s*(.+)", re.MULTILINE),
    ),
    ("", "/var/run/secrets/kubernetes.io/serviceaccount/token", re.compile(r"\A\s*(\S+)\s*\Z")),
)
"""Where tools keep what a person logged in with: variable with the path or paths, usual path, secrets in the text."""
_SAY_WHERE = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG", *(name for name, _, _ in _KEPT_BY_TOOLS if name))
_LARGEST_KEPT_BYTES = 1 << 20
_SHORTEST_SECRET = 6
_SHORTEST_LINE = 12
"""Of a secret of several lines: shorter ones are no secrets, as in ``}``."""
_SHORTEST_ENCODED = 8
_SHORTEST_NUMBER = 4
_NO_SECRETS = {"", "true", "false", "yes", "no", "on", "off", "none", "null", "auto", "***"}
"""What a variable that is named like a secret may hold besides one: whether, not what."""
_remembered: dict[str, str] = {}
"""Secret -> whose it is."""


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Return whether a key or an environment variable is named like a secret."""
    name = name[:_LONGEST_NAME]
    return _SECRET_NAME.search(name) is not None and _NOT_SECRET.search(name) is None


def is_secret_parameter(name: str) -> bool:
    """Return whether a parameter of a URI's query is named like a secret."""
    return is_secret_name(name) or name.lower() in _SECRET_PARAMETERS


def add(secrets: Iterable[str], whose: str) -> None:
    """Know these from now on.

    Args:
        secrets: The texts.
        whose: What a person would look for, to change one.
    """
    _remembered.update(dict.fromkeys(secrets, whose))


def secrets_of_addresses(text: str) -> Iterator[str]:
    """Yield passwords, tokens and secret-named parameters of the URIs in a text."""
    for pattern in (_PASSWORD, _TOKEN):
        yield from (found["secret"] for found in pattern.finditer(text))
    yield from (found["secret"] for found in _PARAMETER.finditer(text) if is_secret_parameter(found["name"]))


def known() -> tuple[str, ...]:
    """Return every text that is masked, longest first, because one may be a part of another."""
    return _forms(frozenset(v for values in _values().values() for v in values if _why_not(v) is None))


def unmasked() -> dict[str, str]:
    """Return the names of known secrets that are not masked, each with the reason; a person has to change those."""
    return {whose: why for whose, values in _values().items() for value in values if (why := _why_not(value))}


def _values() -> dict[str, list[str]]:
    """Return known secrets by where they were found, without the white space around them."""
    values: dict[str, list[str]] = {}
    for name, value in os.environ.items():
        if is_secret_name(name):
            values[name] = [value]
        elif "://" in value and (inside := list(secrets_of_addresses(value))):
            values[name] = inside
    for secret, whose in (*_remembered.items(), *_kept_by_tools()):
        values.setdefault(whose, []).append(secret)
    return {whose: [secret.strip() for secret in secrets] for whose, secrets in values.items()}


@lru_cache(maxsize=4096)
def _why_not(value: str) -> str | None:
    """Return why a secret is not masked, empty if it is none; None if it is masked."""
    if value.lower() in _NO_SECRETS or (value.isdecimal() and len(value) < _SHORTEST_NUMBER):
        return ""
    if len(value) < _SHORTEST_SECRET:
        return f"is shorter than {_SHORTEST_SECRET} characters"
    return "is a word that sft itself writes" if value.lower() in _own_text() else None


@cache
def _own_text() -> str:
    """Return what this package's files say, lower case: a secret among it would be masked out of every record.

    Names of settings, steps and files, and the words that their values may be, all stand there.
    """
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return "\0".join(file.read_text(encoding="utf-8") for file in files).lower()


@lru_cache(maxsize=8)
def _forms(values: frozenset[str]) -> tuple[str, ...]:
    forms = {form for value in values for part in _parts(value) for form in _written(part)}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST_SECRET), key=len, reverse=True))


def _parts(value: str) -> Iterator[str]:
    """Yield a secret, and each line of one that has several: a log is written line by line."""
    yield value
    for lines in (value.splitlines(), value.split("\\n")):
        yield from (line.strip() for line in lines if len(lines) > 1 and len(line.strip()) >= _SHORTEST_LINE)


def _written(value: str) -> Iterator[str]:
    """Yield a secret as it is, and as URIs, JSON, Python, HTML, YAML, shells and base64 write it."""
    content = value.encode("utf-8", errors="surrogateescape")
    quoted = {quote(content, safe=""), quote(content), quote_plus(content), quote(content, safe="/:@!$&'()*+,;=~")}
    yield value
    yield from quoted
    yield from (re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in quoted)
    yield unquote(value)
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value), ascii(value)):
        yield text[1:-1]
    yield html.escape(value)
    yield html.escape(value, quote=False)
    yield html.escape(value).replace("&#x27;", "&#39;")
    yield value.replace("'", "''")
    yield shlex.quote(value)
    yield from _in_base64(content)


def _in_base64(content: bytes) -> Iterator[str]:
    """Yield what base64 makes of a secret wherever it stands in the text that is encoded (``user:password``).

    Three bytes make four characters, so there are three places; those characters that hold bits of its neighbours are
    left out.
    """
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + content).decode()
        start, whole_bits = (0, 2, 3)[offset], (offset + len(content)) * 8
        inner = encoded[start : whole_bits // 6]
        if len(inner) >= _SHORTEST_ENCODED:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


def _kept_by_tools() -> Sequence[tuple[str, str]]:
    """Return what logins this machine's tools keep, each with its file."""
    return _read(tuple(map(os.environ.get, _SAY_WHERE)))


@lru_cache(maxsize=4)
def _read(values: Sequence[str | None]) -> Sequence[tuple[str, str]]:
    """Return the secrets in files, where variables say and at the usual places, read once.

    A file that can't be read holds nothing for us.
    """
    given = dict(zip(_SAY_WHERE, values, strict=True))
    hf = {given["HF_HOME"], f"{given['XDG_CACHE_HOME'] or '~/.cache'}/huggingface", "~/.cache/huggingface"} - {None}
    docker = {given["DOCKER_CONFIG"], "~/.docker"} - {None}
    named = []
    for variable, usual, _ in _KEPT_BY_TOOLS:
        places = {usual.format(hf=folder, docker=other) for folder in hf for other in docker}
        named.append(os.pathsep.join([given.get(variable) or "", *sorted(places)]))
    secrets = []
    for paths, (_, _, pattern) in zip(named, _KEPT_BY_TOOLS, strict=True):
        for path in filter(None, paths.split(os.pathsep)):
            try:
                file = Path(path).expanduser()
                if not file.is_file() or file.stat().st_size > _LARGEST_KEPT_BYTES:
                    continue
                found = pattern.findall(file.read_text(encoding="utf-8", errors="replace"))
            except (OSError, RuntimeError):  # the latter: there is no home
                continue
            secrets += [(value, path) for secret in found for value in (secret, *_password(secret, pattern))]
    return secrets


def _password(secret: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the password of ``user:password`` in base64, as Docker keeps it."""
    if pattern is _DOCKER:
        try:
            yield base64.b64decode(secret, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return
