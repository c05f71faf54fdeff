"""Owns the one logging set-up and the redaction of secrets. Only the command line calls `configure`.

Does not own what a person watches while a run works: that is `sft.progress`.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast
from urllib.parse import quote

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
_SCHEME = r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{0,31}://)"
_URI_USERINFO = re.compile(rf"{_SCHEME}[^/\s:@'\"]*:[^/\s'\"]*@", re.IGNORECASE)
_URI_TOKEN = re.compile(r"(?<![a-z0-9])(?P<scheme>https?://)[^/\s@'\"]+@", re.IGNORECASE)
_URI_QUERY = re.compile(r"(?P<before>[?&;#](?P<name>[\w.-]{1,200})=)[^&;\s'\"]+")
_QUERY_SECRETS = {"sig", "key", "auth", "pwd", "pass", "pat", "policy", "code", "x-amz-credential"}
_AUTHORIZATION = re.compile(
    r"(?P<before>(?:proxy-)?authorization['\"]?\s{0,9}[:=]\s{0,9}['\"]?(?:(?:bearer|basic|token|digest)\s{1,9})?)[^\s'\",]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(?P<before>bearer\s{1,9})[\w.~+/-]{8,}=*", re.IGNORECASE)
_WELL_KNOWN = re.compile(
    r"(?<![\w-])(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}|"
    r"xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})(?![A-Za-z0-9])"
)
"""Tokens that say by their form what they are: of Hugging Face, GitHub, GitLab, OpenAI, Slack, AWS; JSON Web Tokens.

Each pattern starts only where a word does, and repeats at most so often, so that a hostile text takes time in
proportion to its length.
"""
_KEPT_BY_TOOLS = (
    ("HF_TOKEN_PATH", "~/.cache/huggingface/token", re.compile(r"\A\s*(\S+)\s*\Z")),
    ("NETRC", "~/.netrc", re.compile(r"\bpassword\s+(\S+)")),
    (
        "AWS_SHARED_CREDENTIALS_FILE",
        "~/.aws/credentials",
        re.compile(r"aws_(?:secret_access_key|session_token)\s*=\s*(\S+)"),
    ),
    ("", "~/.docker/config.json", re.compile(r"\"(?:auth|identitytoken|password)\"\s*:\s*\"([^\"]+)\"")),
    ("", "/var/run/secrets/kubernetes.io/serviceaccount/token", re.compile(r"\A\s*(\S+)\s*\Z")),
)
"""Where tools keep what a person logged in with: variable with the path, path, and the secrets in the text."""
_LARGEST_KEPT_BYTES = 1 << 20
_SETTING = re.compile(r"[a-z][a-z_.]{0,63}")
_remembered: set[str] = set()
_SHORTEST_SECRET = 6
MASK = "***"

T = TypeVar("T")


def is_secret_name(name: str) -> bool:
    """Return whether a key or an environment variable is named like a secret."""
    name = name[:_LONGEST_NAME]
    return _SECRET_NAME.search(name) is not None and _NOT_SECRET.search(name) is None


def remember(*secrets: str) -> None:
    """Mask these from now on: what was read from a login, a server or a file."""
    _remembered.update(secrets)


def redact(text: str) -> str:
    """Return a text without its secrets.

    Masked are: logins in URIs and secret-named parameters of their queries, authorization headers, tokens of a
    well-known form, and these values, as they are and as a URI quotes them: of any secret-named environment variable,
    of logins that tools keep in files, and what was remembered (`remember`).
    """
    return _masked(text, _secrets())


def redacted(tree: T) -> T:
    """Return a tree of dictionaries and lists, each text in it redacted."""
    return cast(T, _redacted(tree, _secrets()))


def _redacted(tree: object, secrets: Sequence[str]) -> object:
    match tree:
        case str():
            return _masked(tree, secrets)
        case dict():
            return {_redacted_key(key, secrets): _redacted(value, secrets) for key, value in tree.items()}
        case list() | tuple():
            return [_redacted(value, secrets) for value in tree]
    return tree


def _redacted_key(key: object, secrets: Sequence[str]) -> object:
    """Return a key redacted; the name of a setting stays, although a password may be a word of it."""
    is_setting = isinstance(key, str) and _SETTING.fullmatch(key) is not None
    return key if is_setting else _redacted(key, secrets)


def _masked(text: str, secrets: Sequence[str]) -> str:
    for value in secrets:
        text = text.replace(value, MASK)
    text = _URI_USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _URI_TOKEN.sub(rf"\g<scheme>{MASK}@", text)
    text = _URI_QUERY.sub(_masked_parameter, text)
    text = _AUTHORIZATION.sub(rf"\g<before>{MASK}", text)
    text = _BEARER.sub(rf"\g<before>{MASK}", text)
    return _WELL_KNOWN.sub(MASK, text)


def _masked_parameter(found: re.Match[str]) -> str:
    is_secret = is_secret_name(found["name"]) or found["name"].lower() in _QUERY_SECRETS
    return found["before"] + MASK if is_secret else found[0]


def _secrets() -> list[str]:
    """Return all values that are masked, longest first, because one may be a part of another."""
    named = {value for name, value in os.environ.items() if is_secret_name(name)}
    values = {v for value in (*named, *_remembered, *_kept_by_tools()) for v in (value, value.strip())}
    quoted = {quote(value, safe="") for value in values}
    return sorted((v for v in values | quoted if len(v) >= _SHORTEST_SECRET), key=len, reverse=True)


@cache
def _kept_by_tools() -> frozenset[str]:
    """Return what logins this machine's tools keep, read once; a file that can't be read holds nothing for us."""
    secrets = set()
    for variable, usual, pattern in _KEPT_BY_TOOLS:
        path = Path(os.environ.get(variable) or usual).expanduser()
        try:
            if path.is_file() and path.stat().st_size <= _LARGEST_KEPT_BYTES:
                secrets.update(pattern.findall(path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            continue
    return frozenset(secrets)


class _MaskingBytes:
    """A stream of bytes that masks secrets in what is written to it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, content: bytes) -> int:
        text = bytes(content).decode("utf-8", errors="surrogateescape")
        self._stream.write(redact(text).encode("utf-8", errors="surrogateescape"))
        return len(content)

    def writelines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Masking:
    """A text stream that masks secrets in what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redact(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _MaskingBytes:
        return _MaskingBytes(self._stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_streams() -> None:
    """Mask secrets in all that this process prints from here on, whatever library prints it.

    A character that the terminal's encoding lacks is printed as an escape, as Python does on standard error.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Masking):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Masking(stream))


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(*, debug: bool) -> None:
    """Send others' warnings to standard error, with `debug` all of ours too; masks secrets in all that is said.

    What ours would say without `debug`, a person is told in other words; a run's log has it.
    """
    mask_streams()
    root, ours = logging.getLogger(), logging.getLogger("sft")
    root.handlers[:] = [_to_stderr(logging.WARNING)]
    ours.handlers[:] = [_to_stderr(logging.DEBUG) if debug else logging.NullHandler()]
    ours.setLevel(logging.DEBUG if debug else logging.WARNING)
    ours.propagate = False


def _to_stderr(level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(_Redacting("%(levelname)s %(name)s: %(message)s"))
    return handler


def print_error(problem: object) -> None:
    """Print what went wrong to standard error."""
    lead = "error: " if isinstance(problem, Exception) else "\n"
    sys.stderr.write(f"{lead}{problem}\n")


def to_file(path: Path) -> logging.Handler:
    """Append every `sft` record at INFO and above to `path`; the caller closes the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Redacting("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("sft")
    logger.setLevel(min(logging.INFO, logger.level or logging.INFO))
    logger.addHandler(handler)
    return handler
