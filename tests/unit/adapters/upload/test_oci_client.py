"""When a registry may be spoken to without TLS. The rest is tested against a real server."""

from __future__ import annotations

import pytest

from sft.adapters.upload.oci_client import _is_local


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("ghcr.io", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(host: str, here: bool) -> None:
    assert _is_local(host) is here
