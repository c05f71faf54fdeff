"""Owns taking secrets out of texts: those that are known, and those that a place or a form gives away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar, cast

from sft import known_secrets
from sft.known_secrets import is_secret_parameter

_SCHEME = r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{0,31}://)"
_URI_USERINFO = re.compile(rf"{_SCHEME}[^/\s:@'\"]*:[^/\s'\"]*@", re.IGNORECASE)
_URI_TOKEN = re.compile(r"(?<![a-z0-9])(?P<scheme>https?://)[^/\s@'\"]+@", re.IGNORECASE)
_URI_QUERY = re.compile(r"(?P<before>[?&;#](?P<name>[\w.-]{1,200})=)[^&;\s'\"]+")
_AUTHORIZATION = re.compile(
    r"(?P<before>(?:(?:proxy-)?authorization|(?<![\w-])(?:x-|x-goog-)?api-key|x-[a-z]{1,20}-token|x-amz-security-token|"
    r"private-token|x-registry-auth)['\"]?\s{0,9}[:=]\s{0,9}(?:b?['\"])?(?:(?:bearer|basic|token|digest)\s{1,9})?)[^\s'\",]+",
    re.IGNORECASE,
)
_COOKIE = re.compile(
    r"(?<![\w-])(?P<before>(?:set-)?cookie['\"]?\s{0,9}:\s{0,9}(?:b?['\"])?)[^'\"\r\n]+", re.IGNORECASE
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
_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{20,128}")
MASK = "***"

T = TypeVar("T")


def redact(text: str) -> str:
    """Return a text without its secrets.

    Masked are: logins in URIs and secret-named parameters of their queries, authorization headers, tokens of a
    well-known form, cookies, and all that is known (`sft.known_secrets`), in every form in which it is written.
    """
    return _masked(text, known_secrets.known())


def shortened(text: str, most: int) -> str:
    """Return the beginning of a text, redacted before it is cut: half a secret would not be known as one."""
    return redact(text)[:most]


def redacted(tree: T) -> T:
    """Return a tree of dictionaries and lists, each text in it redacted."""
    return cast(T, _redacted(tree, known_secrets.known()))


def _redacted(tree: object, secrets: Sequence[str]) -> object:
    match tree:
        case str() if _DIGEST.fullmatch(tree):  # by chance it may hold six characters that are someone's password
            return MASK if tree in secrets else tree
        case str():
            return _masked(tree, secrets)
        case dict():
            return {_redacted(key, secrets): _redacted(value, secrets) for key, value in tree.items()}
        case list() | tuple():
            return [_redacted(value, secrets) for value in tree]
    return tree


def _masked(text: str, secrets: Sequence[str]) -> str:
    for value in secrets:
        text = text.replace(value, MASK)
    text = _URI_USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _URI_TOKEN.sub(rf"\g<scheme>{MASK}@", text)
    text = _URI_QUERY.sub(_masked_parameter, text)
    text = _AUTHORIZATION.sub(rf"\g<before>{MASK}", text)
    text = _COOKIE.sub(rf"\g<before>{MASK}", text)
    text = _BEARER.sub(rf"\g<before>{MASK}", text)
    return _WELL_KNOWN.sub(MASK, text)


def _masked_parameter(found: re.Match[str]) -> str:
    return found["before"] + MASK if is_secret_parameter(found["name"]) else found[0]
