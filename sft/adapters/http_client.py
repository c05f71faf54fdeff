"""Owns a request over HTTP(S): proxies of the environment, redirects, and that a login goes to no other host.

Nothing is repeated here (`sft.adapters.retry`), and answers are not read (`Response.read1`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, SSLError

from sft.adapters.proxy import proxy_of

_REDIRECTS = {301, 302, 303, 307, 308}
_LOGIN = {"authorization", "cookie"}
_PORTS = {"http": 80, "https": 443}


class RefusedAddress(Exception):
    """What is to be asked, or a server leads to, is nothing that should be; the message ends a sentence about it."""


class Untrusted(Exception):
    """A certificate does not verify."""


class Unanswered(Exception):
    """No answer: there is no connection, or it broke off."""


class HttpClient:
    """Asks servers. Threads may use it at the same time.

    Args:
        timeout: Of each request.
        num_connections: Connections to a server that are kept.
        block_bytes: Bytes of a body that are sent at once.
    """

    def __init__(self, timeout: urllib3.Timeout, *, num_connections: int = 1, block_bytes: int = 1 << 14) -> None:
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "maxsize": num_connections,
            "blocksize": block_bytes,
            "retries": False,
        }
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: Any = None,
        timeout: urllib3.Timeout | None = None,
        max_redirects: int = 0,
    ) -> Any:
        """Return the answer to a request, whatever it says; its content is not read yet.

        Args:
            method: ``GET``, ``HEAD`` …
            url: With a host, without a login.
            headers: A login among them is sent to the url's own scheme, host and port only.
            body: Bytes, or a file that is open.
            timeout: Of this request.
            max_redirects: How many redirects are followed; with 0 a redirect is an answer.

        Raises:
            RefusedAddress: A redirect to plain http after https, to another protocol, or one too many; no address.
            Untrusted: The server's certificate does not verify.
            Unanswered: It may pass.
        """
        options: dict[str, Any] = {"timeout": timeout} if timeout else {}
        for _ in range(max_redirects + 1):
            try:
                response = self._pool(url).request(
                    method, url, body=body, headers=headers, redirect=False, preload_content=False, **options
                )
            except (LocationValueError, ValueError) as error:
                raise RefusedAddress("is not an address that can be asked") from error
            except SSLError as error:
                raise Untrusted(str(error)) from error
            except (HTTPError, OSError) as error:
                raise Unanswered(type(error).__name__) from error
            place = response.headers.get("Location")
            if not max_redirects or response.status not in _REDIRECTS or not place:
                return response
            response.close()
            before, url = url, _next(url, place)
            if origin(url) != origin(before):
                headers = {name: value for name, value in headers.items() if name.lower() not in _LOGIN}
        raise RefusedAddress(f"more than {max_redirects} redirects")

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_of(url)
        if proxy not in self._pools:
            self._pools[proxy] = _through(proxy, self._options) if proxy else urllib3.PoolManager(**self._options)
        return self._pools[proxy]


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a url (RFC 6454, 4)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _next(url: str, place: str) -> str:
    try:
        target = urljoin(url, place)
        scheme, host, _ = origin(target)
    except ValueError as error:
        raise RefusedAddress("redirects to what is not an address") from error
    if url.startswith("https://") and scheme == "http":
        raise RefusedAddress("redirects from https to http")
    if scheme not in _PORTS or not host:
        raise RefusedAddress(f"redirects to {scheme or 'nowhere'}, not to http or https")
    return target


def _through(proxy: str, options: Mapping[str, Any]) -> urllib3.ProxyManager:
    parts = urlsplit(proxy)
    if parts.scheme not in _PORTS:
        raise RefusedAddress(f"has a {parts.scheme} proxy, and only those of http and https can be asked")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    headers = urllib3.make_headers(proxy_basic_auth=login)
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
