"""What is a place to upload to, and what is none."""

from __future__ import annotations

import pytest

from sft.config.upload_uri import parse


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/models/speller/",
        "oci://localhost:5000/org/team/speller:latest",
        "oci://ghcr.io/org/speller",
        "hf://org/speller-1.5B",
    ],
)
def test_a_place_to_upload_to_is_taken(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    found = parse(uri)
    told = f"{found.host}/{found.path}" + (f":{found.tag}" if found.tag else "")
    assert (found.scheme.value, told.rstrip("/")) == (scheme, rest.rstrip("/"))


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("gs://bucket/x", "must be one of s3://bucket/prefix, oci://host[:port]/repository[:tag], hf://org/name"),
        ("models", "must be one of s3://bucket/prefix, oci://host[:port]/repository[:tag], hf://org/name"),
        ("s3://", "must have the form s3://bucket/prefix"),
        ("s3://Bucket/x", "must have the form s3://bucket/prefix"),
        ("s3://bucket/a//b", "must have the form s3://bucket/prefix"),
        ("s3://bucket/../b", "must have the form s3://bucket/prefix"),
        ("s3://bucket/a?versionId=1", "must have the form s3://bucket/prefix"),
        ("oci://ghcr.io", "must have the form oci://host[:port]/repository[:tag]"),
        ("oci://ghcr.io/Org/x", "must have the form oci://host[:port]/repository[:tag]"),
        ("oci://ghcr.io/org/x@sha256:00", "must have the form oci://host[:port]/repository[:tag]"),
        ("hf://name", "must have the form hf://org/name"),
        ("hf://org/name@main", "must have the form hf://org/name"),
        ("oci://ada@ghcr.io/org/x", "holds a secret, and settings are recorded; a login comes from the environment"),
    ],
)
def test_a_place_that_nothing_can_be_uploaded_to_is_refused(uri: str, rule: str) -> None:
    with pytest.raises(ValueError, match=r"must|secret") as refused:
        parse(uri)
    assert str(refused.value) == rule
