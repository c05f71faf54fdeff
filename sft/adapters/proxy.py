"""Owns which proxy the environment names for an address (``HTTPS_PROXY``, ``NO_PROXY`` …).

Pure but for the environment.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from sft.logs import remember


def proxy_of(url: str) -> str | None:
    """Return the address of the proxy for a url; None if it is asked directly, as this machine itself always is."""
    address = urlsplit(url)
    if is_loopback(address.hostname or "") or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    remember(unquote(urlsplit(proxy).password or ""))
    return proxy


def is_loopback(host: str) -> bool:
    """Return whether a host, without its port, is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
