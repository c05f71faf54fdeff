"""A Kubeflow Model Registry: what the stages ask of it, and the child process that answers."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sft.adapters.os import child
from sft.adapters.os.process import run_module
from sft.adapters.registry import ListedModel, Registered, Registration
from sft.adapters.registry import kubeflow_versions as versions
from sft.adapters.registry.kubeflow_api import TOKEN, LikelyTemporaryError, RegistryApi
from sft.adapters.retry import RetryPolicy, retry
from sft.errors import StageError

_ADDRESS = "SFT_REGISTRY_ADDRESS"
_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # as the client reads it, model_registry/_client.py:66@0.3.18
_POD_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_RETRY = RetryPolicy(max_attempts=4, max_seconds=45.0, first_wait_seconds=0.5)  # a silent server: a minute in all


class Kubeflow:
    """A Kubeflow Model Registry, asked in a child process.

    Attributes:
        address: ``http://`` or ``https://`` address of the server.
    """

    def __init__(self, address: str, *, port: int | None, ca: Path | None) -> None:
        """Name the server.

        Args:
            address: Its address, perhaps with a port and the path of a gateway.
            port: Its port, unless `address` has one; None = 8080 with http, 443 with https.
            ca: PEM of the authority that signed its certificate; None = the system's.
        """
        self.address = address
        self._request = {"port": port, "ca": ca and str(ca)}

    def register(
        self, registration: Registration, *, folder: Path, next_version: bool = False, adopt: bool = False
    ) -> Registered:
        """Register a version, complete a partly registered one, or find that it is registered.

        Args:
            registration: The version.
            folder: Holds the child's request, result and log.
            next_version: Whether to increase the label if another checkpoint has it.
            adopt: Whether to fill a version that has the label and names no checkpoint.

        Raises:
            StageError: The version exists with another checkpoint or is archived, the server refused or can't be
                reached.
        """
        request = {"registration": asdict(registration), "next_version": next_version, "adopt": adopt}
        return Registered(**self._ask(request, folder, "registering with Kubeflow"))

    def models(self, name: str | None, *, folder: Path) -> list[ListedModel]:
        """Return every registered version.

        Args:
            name: Name of the registered model; None = all.
            folder: As in `register`.

        Raises:
            StageError: The server refused or can't be reached.
        """
        return [ListedModel(**m) for m in self._ask({"list": name}, folder, "asking the model registry")["models"]]

    def check(self, name: str, version: str | None, *, folder: Path) -> str:
        """Return what a person should know before a model is registered under a name and a label; may be empty.

        Args:
            name: Of the model.
            version: The label; None where one that another has is no obstacle.
            folder: As in `register`.

        Raises:
            StageError: The server refused or can't be reached, or nobody would see the version: it is archived.
        """
        note: str = self._ask({"check": [name, version]}, folder, "asking the model registry")["note"]
        return note

    def has(self, name: str, version: str, digest: str, *, folder: Path) -> bool:
        """Return whether the registry holds a checkpoint as a version, with the artifact that says where it is.

        Raises:
            StageError: The server refused or can't be reached.
        """
        asked = {"has": [name, version, digest]}
        return bool(self._ask(asked, folder, "asking the model registry")["has"])

    def _ask(self, request: dict[str, Any], folder: Path, what: str) -> dict[str, Any]:
        # The address is not in the request, which is kept in a file.
        env = {_ADDRESS: self.address.rstrip("/")}
        answer: dict[str, Any] = run_module(__name__, request | self._request, folder=folder, what=what, env=env)
        return answer


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    # After a conflict somebody else has added it since we read. Each attempt reads first what the registry has.
    return retry(lambda: _answer(request, os.environ[_ADDRESS]), _RETRY, on=(LikelyTemporaryError,))


def _answer(request: dict[str, Any], address: str) -> dict[str, Any]:
    with closing(RegistryApi(address, request["port"], token=_token(address), ca=request["ca"])) as api:
        match request:
            case {"list": name}:
                return {"models": [asdict(model) for model in versions.listed(api, name)]}
            case {"check": [name, label]}:
                return {"note": versions.check(api, name, label)}
            case {"has": [name, label, digest]}:
                return {"has": versions.has(api, name, label, digest)}
            case _:
                registration = Registration(**request["registration"])
                done = versions.register(
                    api, registration, next_version=request["next_version"], adopt=request["adopt"]
                )
                return asdict(replace(done, api=api.version))


def _token(address: str) -> str | None:
    """Return the bearer token, stripped: a newline at the end of a token file makes an invalid header."""
    token = os.environ.get(TOKEN, "").strip()
    if not token and (_TOKEN_FILE in os.environ or Path(_POD_TOKEN_FILE).exists()):
        file = Path(os.environ.get(_TOKEN_FILE, _POD_TOKEN_FILE))
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise StageError(f"the token file {file} can't be read: {why}", fix=f"set {TOKEN}") from error
    if not token and address.startswith("https://"):
        raise StageError(f"the model registry at {address} needs a token", fix=f"set {TOKEN}")
    return token or None


if __name__ == "__main__":
    child.main(_handle)
