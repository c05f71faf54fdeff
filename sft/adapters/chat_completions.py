"""Owns asking a server of OpenAI-compatible chat completions: ``POST ADDRESS/chat/completions``.

What may pass is repeated: a busy or failing server, a broken connection, an answer that is not the JSON it should be.
The key goes into the header of requests to that address and nowhere else; redirects are not followed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from sft.adapters.http_client import HttpClient, RefusedAddress, Unanswered, Untrusted
from sft.adapters.retry import RetryPolicy, TemporaryError, retry, retry_after_seconds
from sft.errors import StageError
from sft.redaction import redact

_BUSY = {408, 409, 425, 429}
_MOST_BYTES = 10_000_000
_CHUNK_BYTES = 1 << 16
_SHOWN_CHARACTERS = 300
_CHECK_REQUEST = "check the address (up to /v1), the name of the model, and its parameters"


@dataclass(frozen=True)
class ChatAnswer:
    """One completion.

    Attributes:
        text: Empty where the message has none.
        model: What the server says that answered.
        finish_reason: ``stop``, ``length`` …; empty if the server doesn't say.
        usage: Tokens as the server counts them.
    """

    text: str
    model: str
    finish_reason: str
    usage: dict[str, Any]


@dataclass
class ChatServer:
    """A server. Threads may ask it at the same time.

    Attributes:
        address: Up to ``/v1``.
        key: Sent as a bearer token; None = none is needed.
        timeout_seconds: Longest time for one request, however slowly its answer comes.
        retry: How often one is made.
        num_connections: Connections that are kept.
    """

    address: str
    key: str | None = field(repr=False, default=None)
    timeout_seconds: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    num_connections: int = 1

    def __post_init__(self) -> None:
        self._url = f"{self.address.rstrip('/')}/chat/completions"
        timeout = urllib3.Timeout(total=self.timeout_seconds)
        self._client = HttpClient(timeout, num_connections=self.num_connections)

    def ask(self, body: Mapping[str, Any]) -> ChatAnswer:
        """Return the completion of a request.

        Raises:
            StageError: The server refuses it, or keeps failing.
        """
        try:
            return retry(lambda: self._attempt(body), self.retry)
        except TemporaryError as error:
            raise StageError(
                f"{redact(self._url)}: {error}; given up after {self.retry.max_attempts} attempts in a row",
                fix="repeat the command when the server is back: what was answered is kept",
            ) from error

    def _attempt(self, body: Mapping[str, Any]) -> ChatAnswer:
        deadline = time.monotonic() + self.timeout_seconds
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            response = self._client.request("POST", self._url, headers, body=json.dumps(body).encode())
            with response:
                content = self._read(response, deadline)
        except Untrusted as error:
            raise StageError(
                f"{redact(self._url)}: its certificate does not verify",
                fix="set SSL_CERT_FILE to the certificate of the authority that signed it, if you trust that",
            ) from error
        except RefusedAddress as error:
            raise StageError(f"{redact(self._url)}: {error}", fix=_CHECK_REQUEST) from error
        except Unanswered as error:
            raise TemporaryError(f"can't be reached or broke off ({error})") from error
        except HTTPError as error:
            raise TemporaryError(f"can't be reached or broke off ({type(error).__name__})") from error
        self._check_status(response, content)
        return _answer(content)

    def _read(self, response: Any, deadline: float) -> bytes:
        content = b""
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > _MOST_BYTES:
                raise StageError(f"{redact(self._url)}: answers with more than {_MOST_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise TemporaryError(f"took longer than {self.timeout_seconds:g} s")
        return content

    def _check_status(self, response: Any, content: bytes) -> None:
        status, where = response.status, redact(self._url)
        said = " ".join(redact(content.decode(errors="replace")).split())[:_SHOWN_CHARACTERS]
        if status in _BUSY or status >= 500:
            after = retry_after_seconds(response.headers.get("Retry-After", ""))
            raise TemporaryError(f"answers {status} ({said})", after)
        if status in {401, 403}:
            raise StageError(
                f"{where}: refuses access ({status}): {said}", fix="set the variable that key_env names to a key for it"
            )
        if 300 <= status < 400:
            raise StageError(f"{where}: leads elsewhere ({status}), where the key does not go", fix="name that address")
        if status != 200:
            raise StageError(f"{where}: refuses the request ({status}): {said}", fix=_CHECK_REQUEST)


def _answer(content: bytes) -> ChatAnswer:
    """Return the first choice of a response's body (platform.openai.com/docs/api-reference/chat/object).

    Raises:
        TemporaryError: It is no such body.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text = choice["message"].get("content")
        return ChatAnswer(
            text=text if isinstance(text, str) else "",
            model=str(body.get("model") or ""),
            finish_reason=str(choice.get("finish_reason") or ""),
            usage={name: count for name, count in (body.get("usage") or {}).items() if isinstance(count, int)},
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        shown = " ".join(redact(content.decode(errors="replace")).split())[:_SHOWN_CHARACTERS]
        raise TemporaryError(f"answers with what is not a chat completion ({shown or 'nothing'})") from error
