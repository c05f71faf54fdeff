"""What `registry.upload` may say: where the files of a model go. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from sft.redaction import redact


class Scheme(Enum):
    """The kinds of places."""

    s3 = "s3"
    oci = "oci"
    hf = "hf"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A place for models.

    Attributes:
        host: The bucket; the registry, with its port; the organization on the hub.
        path: Prefix, which may be empty; repository; name.
        tag: Of an OCI artifact; None where nothing is said.
    """

    scheme: Scheme
    host: str
    path: str
    tag: str | None = None


_FORMS = {
    Scheme.s3: "s3://bucket/prefix",
    Scheme.oci: "oci://host[:port]/repository[:tag]",
    Scheme.hf: "hf://org/name",
}
_PATTERNS = {
    Scheme.s3: r"(?P<host>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<path>[^/?#\s]+(?:/[^/?#\s]+)*))?/?",
    # https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
    Scheme.oci: r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?)"
    r"/(?P<path>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?",
    Scheme.hf: r"(?P<host>[A-Za-z0-9][\w.-]*)/(?P<path>[A-Za-z0-9][\w.-]*)",
}


def parse(uri: str) -> Destination:
    """Return a place as a person writes it, parsed.

    Raises:
        ValueError: It is none; the message is the rule that it breaks.
    """
    name, _, rest = uri.partition("://")
    scheme = next((one for one in Scheme if one.value == name), None)
    if redact(uri) != uri or "@" in rest.partition("/")[0]:
        raise ValueError("holds a secret, and settings are recorded; a login comes from the environment")
    if scheme is None:
        raise ValueError(f"must be one of {', '.join(_FORMS.values())}")
    found = re.fullmatch(_PATTERNS[scheme], rest, re.ASCII)
    parts = found.groupdict() if found else {}
    path = parts.get("path") or ""
    if not found or {".", ".."} & set(path.split("/")):
        raise ValueError(f"must have the form {_FORMS[scheme]}")
    return Destination(scheme=scheme, host=parts["host"], path=path, tag=parts.get("tag"))
