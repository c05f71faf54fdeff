"""What one request does with redirects, logins and proxies; the servers are real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import urllib3

from sft.adapters import http_client
from sft.adapters.http_client import HttpClient, RefusedAddress, Unanswered, origin
from tests.servers.http import Resource, serving

LOGIN = {"Authorization": "Bearer canary", "Cookie": "a=b", "Accept": "*/*"}


@pytest.fixture
def client() -> HttpClient:
    return HttpClient(urllib3.Timeout(5))


@pytest.fixture
def through_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resource]:
    """What a proxy for every address is asked for: it has no such host, and answers itself."""
    resource = Resource(b"proxied")
    with serving({"http://data.example/x": resource}) as proxy:
        monkeypatch.setattr(http_client, "proxy_of", lambda _: proxy.replace("://", "://ada:pass%20word@"))
        yield resource


def test_a_login_goes_no_further_than_its_scheme_host_and_port(client: HttpClient) -> None:
    with serving({"/x": (end := Resource(b"x"))}) as other:
        places = {"/a": Resource(redirect="/b"), "/b": Resource(redirect=f"{other}/x")}
        with serving(places) as address:
            assert client.request("GET", f"{address}/a", LOGIN, max_redirects=2).read() == b"x"
    assert [place.headers[0].get("authorization") for place in (*places.values(), end)] == [
        "Bearer canary",
        "Bearer canary",
        None,
    ]
    assert ("cookie" in end.headers[0], end.headers[0]["accept"]) == (False, "*/*")


def test_redirects_that_go_round_end(client: HttpClient) -> None:
    places = {"/a": Resource(redirect="/b"), "/b": Resource(redirect="/a")}
    with serving(places) as address, pytest.raises(RefusedAddress, match="more than 3 redirects"):
        client.request("GET", f"{address}/a", {}, max_redirects=3)
    assert sum(place.num_requests for place in places.values()) == 4


def test_a_redirect_is_an_answer_where_none_is_followed(client: HttpClient) -> None:
    with serving({"/a": Resource(redirect="/a")}) as address:
        assert client.request("GET", f"{address}/a", {}).status == 302


def test_a_proxy_gets_the_whole_address_and_its_own_login(client: HttpClient, through_proxy: Resource) -> None:
    assert client.request("GET", "http://data.example/x", {}).read() == b"proxied"
    assert through_proxy.headers[0]["proxy-authorization"] == "Basic YWRhOnBhc3Mgd29yZA=="


def test_a_proxy_of_another_kind_is_refused(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "proxy_of", lambda _: "socks5://127.0.0.1:1")
    with pytest.raises(RefusedAddress, match="socks5 proxy"):
        client.request("GET", "http://data.example/x", {})


def test_nobody_there_is_an_answer_that_may_come_later(client: HttpClient) -> None:
    with serving({}) as address:
        pass
    with pytest.raises(Unanswered):
        client.request("GET", address, {})


@pytest.mark.parametrize("url", ["http://[x/", "http://host:99999999/", "ftp://host/"])
def test_what_is_not_an_address_is_refused(client: HttpClient, url: str) -> None:
    with pytest.raises(RefusedAddress):
        client.request("GET", url, {})


def test_an_origin_has_the_usual_port_of_its_scheme() -> None:
    assert origin("https://Host/a") == origin("https://host:443/b") != origin("http://host:443/a")
