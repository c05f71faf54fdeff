"""Owns speaking to a Kubeflow Model Registry: its address, which API it has, requests, pages, and its errors in words.

The requests are those of the generated client in ``model-registry``, without its models: these refuse what a server may
hold (numbers of ten digits, types of a later release), and one odd row of somebody else's must end nothing.
"""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sft.adapters.retry import retry_after_seconds
from sft.errors import StageError

if TYPE_CHECKING:
    from aiohttp import ClientTimeout

APIS = ("v1alpha3", "v1")
"""Prefixes of the API's paths, with the same shapes behind them; servers have one. Released ones have the first."""

TOKEN = "MODEL_REGISTRY_TOKEN"
"""Environment variable that holds the bearer token."""

_AGAIN = "repeat the command to register"
RETRY_HINT = f"earlier stages are done; {_AGAIN}"

_ROOT = "/api/model_registry"
_DEFAULT_PORTS = {"http": 8080, "https": 443}
_PAGE_SIZE = 100
_AT_ONCE = 8
_TIMEOUT_SECONDS = 15.0

Row = dict[str, Any]
"""A model, a version or an artifact, as the server tells it."""


class LikelyTemporaryError(StageError):
    """The server is busy, away, or somebody else was faster: the same may succeed the next time.

    Attributes:
        retry_after_seconds: Pause that the server asked for.
    """

    def __init__(self, message: str, *, fix: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message, fix=fix)
        self.retry_after_seconds = retry_after_seconds


class Conflict(LikelyTemporaryError):
    """There already is a row of that name: somebody has added it since, or the registry takes another for the same."""


class RegistryApi:
    """Requests to one registry.

    Attributes:
        version: Which of `APIS` it has.
    """

    def __init__(self, address: str, port: int | None, *, token: str | None, ca: str | None) -> None:
        """Ask which API the server has.

        Args:
            address: ``http://`` or ``https://``, a host, perhaps a port and the path of a gateway.
            port: Its port, unless `address` has one; None = 8080 with http, 443 with https.
            token: Bearer token.
            ca: PEM of the authority that signed its certificate; None = the system's.

        Raises:
            StageError: There is no registry, or it refuses the token.
            LikelyTemporaryError: It can't be reached.
        """
        from mr_openapi import ApiClient, Configuration

        self.address = address
        self._loop = asyncio.new_event_loop()
        # trust_env: proxies, as for every other client.
        self._client = ApiClient(
            Configuration(host=_with_port(address, port), access_token=token, ssl_ca_cert=ca, retries=None)
        )
        self.version = ""
        try:
            self.version = self._which_api()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RegistryApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def find(self, path: str, name: str) -> Row | None:
        """Return the row with exactly this name; None if there is none.

        The server reads its query ``name`` as a pattern, in which ``_`` is any letter; its filter is exact. An older
        server that doesn't know the filter answers with every row.
        """
        return next((row for row in self._named(path, name) if row.get("name") == name), None)

    def find_alike(self, path: str, name: str) -> str | None:
        """Return another name that the server takes for the same; None if there is none.

        On MySQL, upper and lower case, accents and spaces at the end don't count.
        """
        names = (str(row.get("name")) for row in self._named(path, name))
        return next((other for other in names if other != name and _folded(other) == _folded(name)), None)

    def _named(self, path: str, name: str) -> Iterator[Row]:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return self.pages(path, {"filterQuery": f'name="{quoted}"'})

    def pages(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[Row]:
        """Yield every row of a listing, page by page."""
        seen: set[str] = set()
        token = ""
        while True:
            asked = {**(query or {}), "pageSize": str(_PAGE_SIZE), **({"nextPageToken": token} if token else {})}
            page = self._send("GET", path, asked)
            yield from page.get("items") or ()
            token = page.get("nextPageToken") or ""
            if not token:
                return
            if token in seen:
                raise StageError(f"the model registry at {self.address} answers with the same page of {path} again")
            seen.add(token)

    def first_pages(self, paths: Sequence[str]) -> list[list[Row]]:
        """Return the newest rows of many listings, several asked for at once."""

        async def one(path: str, free: asyncio.Semaphore) -> list[Row]:
            async with free:
                query = {"orderBy": "CREATE_TIME", "sortOrder": "DESC", "pageSize": str(_PAGE_SIZE)}
                answer = await self._request("GET", path, query, None)
                return list(answer.get("items") or ())

        async def every() -> list[list[Row]]:
            free = asyncio.Semaphore(_AT_ONCE)
            return list(await asyncio.gather(*(one(path, free) for path in paths)))

        with self._errors_in_words():
            return self._loop.run_until_complete(every())

    def create(self, path: str, body: Row) -> Row:
        """Add a row to a listing and return it."""
        return self._with_id(self._send("POST", path, body=body), path)

    def update(self, path: str, body: Row) -> Row:
        """Change a row and return it."""
        return self._with_id(self._send("PATCH", path, body=body), path)

    def _with_id(self, row: Row, path: str) -> Row:
        """Refuse an answer that is no row: a redirect turns a POST into a GET, which answers with a listing."""
        if not row.get("id"):
            raise StageError(f"the model registry at {self.address} has not kept what was sent to {path}")
        return row

    def _which_api(self) -> str:
        from mr_openapi.exceptions import NotFoundException

        with self._errors_in_words():
            for version in APIS:
                try:
                    self._loop.run_until_complete(
                        self._request("GET", f"{_ROOT}/{version}/registered_models", {"pageSize": "1"}, None)
                    )
                except NotFoundException:
                    continue
                return version
        raise StageError(
            f"{self.address} has no model registry: {_ROOT}/{APIS[0]} and /{APIS[1]} are not found there",
            fix="check registry.address, with the path of a gateway if there is one, and registry.port",
        )

    def _send(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Row | None = None) -> Row:
        with self._errors_in_words():
            return self._loop.run_until_complete(self._request(method, path, query, body))

    async def _request(self, method: str, path: str, query: Mapping[str, str] | None, body: Row | None) -> Row:
        from mr_openapi.exceptions import ApiException

        whole = path if path.startswith(_ROOT) else f"{_ROOT}/{self.version}/{path}"
        # Every path of the generated client passes here (mr_openapi/api_client.py:133@0.3.18).
        request = self._client.param_serialize(
            method, whole, query_params=list((query or {}).items()), body=body, auth_settings=["Bearer"]
        )
        response = await self._client.call_api(*request, _request_timeout=_timeout())
        text = (await response.read()).decode("utf-8", "replace")
        if not 200 <= response.status <= 299:
            raise ApiException.from_response(http_resp=response, body=text, data=None)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            kind = response.getheader("content-type", "nothing that says its type")
            raise StageError(
                f"the model registry at {self.address} answers {method} {whole} with {kind}, not with JSON",
                fix="check registry.address: a page for people, such as a login, answers there",
            )
        return answer

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        """Raise what the client raises as sentences, those that may pass as `LikelyTemporaryError`."""
        import aiohttp
        from mr_openapi import exceptions as api

        at = f"the model registry at {self.address}"
        try:
            yield
        except (api.UnauthorizedException, api.ForbiddenException) as error:
            message = f"{at} refused the token (HTTP {error.status})"
            raise StageError(message, fix=f"set {TOKEN} to a token for that server; {RETRY_HINT}") from error
        except api.ApiException as error:
            message = f"{at} answered HTTP {error.status}: {_said(error)}"
            if _may_pass(error):
                pause = retry_after_seconds((error.headers or {}).get("Retry-After", ""))
                kind = Conflict if error.status == HTTPStatus.CONFLICT else LikelyTemporaryError
                raise kind(message, fix=RETRY_HINT, retry_after_seconds=pause) from error
            fix = "check registry.model_name, registry.model_version and registry.description"
            raise StageError(message, fix=f"{fix}: the same is answered again; then {_AGAIN}") from error
        except aiohttp.ClientSSLError as error:
            message = f"{at} can't be reached: {error}"
            fix = "set registry.ca to the certificate of the authority that signed the server's, if you trust that"
            raise StageError(message, fix=f"{fix}; {RETRY_HINT}") from error
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            message = f"{at} can't be reached: {error}"
            raise StageError(message, fix=f"check registry.address; {RETRY_HINT}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            silent = f"no answer within {_TIMEOUT_SECONDS:.0f} s"
            message = f"{at} can't be reached: {silent if isinstance(error, TimeoutError) else error}"
            fix = f"check registry.address and registry.port; {RETRY_HINT}"
            raise LikelyTemporaryError(message, fix=fix) from error


def _timeout() -> ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)


def _with_port(address: str, port: int | None) -> str:
    """Return an address with its port in its place: before the path of a gateway."""
    parts = urlsplit(address)
    host = parts.netloc if parts.port else f"{parts.netloc.rstrip(':')}:{port or _DEFAULT_PORTS[parts.scheme]}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def _folded(name: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return plain.casefold().rstrip(" ")


def _said(error: Any) -> str:
    """Return what the server says of a refusal, on one line."""
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = error.body or error.reason or ""
    return " ".join(str(said).split())[:500]


def _may_pass(error: Any) -> bool:
    """Return whether the next attempt may succeed: each reads first what the registry has.

    A conflict means that somebody else has added it since. An HTTP 500 with a SQLSTATE of class 22 is the database's
    word on the value itself, such as a name that is too long.
    """
    status = int(error.status or 0)
    return status in {408, 409, 425, 429} or (status >= 500 and "SQLSTATE 22" not in (error.body or ""))
