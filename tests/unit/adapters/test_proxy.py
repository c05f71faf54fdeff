"""Which proxy is asked for which address."""

from __future__ import annotations

import pytest

from sft.adapters.proxy import proxy_of
from sft.redaction import redact


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "https://ada:canary-proxy-word@proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "proxy.example:8080")
    monkeypatch.setenv("NO_PROXY", "inside.example,10.0.0.7")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://hub.example/x", "https://ada:canary-proxy-word@proxy.example:3128"),
        ("http://hub.example/x", "http://proxy.example:8080"),
        ("https://host.inside.example:444/x", None),
        ("https://ada:word@inside.example/x", None),
        ("http://10.0.0.7/x", None),
        ("http://localhost:8000/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://[::1]:8000/v1", None),
    ],
)
def test_the_environment_names_the_proxy_but_this_machine_is_asked_directly(url: str, proxy: str | None) -> None:
    assert proxy_of(url) == proxy


def test_the_password_of_a_proxy_is_masked() -> None:
    proxy_of("https://hub.example/x")
    assert "canary-proxy-word" not in redact("login with canary-proxy-word")
