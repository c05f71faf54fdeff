"""Owns MLflow: one tracking run and one model version for a checkpoint, in SQLite or on a tracking server.

The weights stay where they are. A SQLite store records their ``file://`` address as the version's source. A tracking
server refuses paths of another machine (mlflow/server/handlers.py:3158@3.17.2), so there the source is the run, and the
tag ``uri`` holds the address. A version's source can't be changed, so the tag also holds a later address.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.adapters.os import child
from sft.adapters.os.process import run_module
from sft.adapters.registry import DIGEST_KEY, ListedModel, Registered, Registration
from sft.adapters.registry.mlflow_database import database_of, has_version, locked
from sft.adapters.registry.mlflow_versions import RUNNING, point_at, renewed
from sft.errors import StageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ADDRESS = "MLFLOW_TRACKING_URI"
_RUN_TAG = "sft.run_id"
_ENTITIES_PER_BATCH = {"metrics": 1000, "params": 100}  # mlflow/utils/validation.py:67@3.17.2
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # With MLflow's own 7 retries a person waits for 4 minutes if the server can't be reached.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # A server could ask for a pause of 6 hours (urllib3/util/retry.py:197@2.7.0); MLflow's own pauses are seconds.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
_FIXES = {
    401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of a user that may "
    "register",
}


@dataclass(frozen=True, kw_only=True)
class TrackingRun:
    """What the tracking run holds in addition to the version's facts.

    Attributes:
        name: Name of the run.
        artifact_root: Folder for the artifacts of a SQLite store; a server has a folder of its own.
        parameters: Hyperparameters by dotted key.
        curve: JSON Lines file, a row per step; each numeric field becomes a metric.
        files: Small files to log, by their path among the run's artifacts.
    """

    name: str
    artifact_root: str
    parameters: dict[str, Any]
    curve: str
    files: dict[str, str]


def register(registration: Registration, run: TrackingRun, *, address: str, folder: Path) -> Registered:
    """Log `run` and register a version of its model, unless the checkpoint's digest is registered already.

    Args:
        registration: The version.
        run: The tracking run to log.
        address: Tracking URI (``sqlite:///…``, ``http://…``).
        folder: Holds the child's request, result and log.

    Raises:
        StageError: MLflow refused or can't be reached; the message names the address without its secrets.
    """
    # The address is passed in the environment: it may hold a password, and the request is kept in a file.
    result = run_module(
        __name__,
        {"registration": asdict(registration), "run": asdict(run)},
        folder=folder,
        what="registering with MLflow",
        env={**_ENVIRONMENT, _ADDRESS: address},
    )
    return Registered(**result)


def models(name: str | None, *, address: str, folder: Path) -> list[ListedModel]:
    """Return every registered version, newest first.

    Args:
        name: Name of the registered model; None = all.
        address: Tracking URI.
        folder: Holds the child's request, result and log.

    Raises:
        StageError: MLflow refused or can't be reached.
    """
    result = run_module(
        __name__, {"list": name}, folder=folder, what="asking MLflow", env={**_ENVIRONMENT, _ADDRESS: address}
    )
    return [ListedModel(**model) for model in result["models"]]


def check(*, address: str, folder: Path) -> str:
    """Ask whether a tracking server answers, with these credentials, about registered models.

    Args:
        address: Tracking URI.
        folder: Holds the child's request, result and log.

    Returns:
        What a person should know; empty, as there is nothing.

    Raises:
        StageError: MLflow refused or can't be reached.
    """
    env = {**_ENVIRONMENT, _ADDRESS: address}
    run_module(__name__, {"is_check": True}, folder=folder, what="asking MLflow", env=env)
    return ""


def has(name: str, version: str, digest: str, *, address: str, folder: Path) -> bool:
    """Return whether a checkpoint is registered as a version still.

    Raises:
        StageError: MLflow refused or can't be reached.
    """
    if database := database_of(address):
        return has_version(database, name, version, tag=(_key(DIGEST_KEY), digest))
    asked = {"has": [name, version, digest]}
    env = {**_ENVIRONMENT, _ADDRESS: address}
    return bool(run_module(__name__, asked, folder=folder, what="asking MLflow", env=env)["has"])


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    address = os.environ[_ADDRESS]
    try:
        database = database_of(address)
        with locked(database) if database else contextlib.nullcontext():
            if "list" in request:
                return {"models": list(_listed(request["list"], address))}
            if "is_check" in request:
                client = MlflowClient(tracking_uri=address, registry_uri=address)
                client.search_experiments(max_results=1)
                client.search_registered_models(max_results=1)
                return {}
            if "has" in request:
                return {"has": _has(*request["has"], address=address)}
            registration, run = Registration(**request["registration"]), TrackingRun(**request["run"])
            return asdict(_register(registration, run, address))
    except MlflowException as error:
        fix = _FIXES.get(error.get_http_status_code(), "check registry.address and registry.model_name")
        message = f"MLflow at {address}: {error.message}"
        raise StageError(message, fix=f"{fix}, then repeat the command: earlier stages are done") from error


def _register(registration: Registration, run: TrackingRun, address: str) -> Registered:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=address, registry_uri=address)
    scores = {_key(name): str(value) for name, value in registration.scores.items()}
    known = registration.details | registration.facts
    tags = {_key(name): str(value) for name, value in known.items()} | scores
    same = client.search_model_versions(f"tags.`{DIGEST_KEY}` = '{registration.digest}'")
    if version := next((v for v in same if v.name == registration.name), None):
        tags, note = renewed(client, registration, version, tags, scores.keys())
    else:
        try:
            client.create_registered_model(registration.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with _tracking_run(client, registration, run, local=address.startswith("sqlite:")) as run_id:
            version = client.create_model_version(
                registration.name,
                source=registration.uri if address.startswith("sqlite:") else f"runs:/{run_id}",
                run_id=run_id,
                tags=tags,
                description=registration.description or None,
            )
            alias = point_at(client, registration, version.version)
        note = f"registered {version.name} version {version.version}{alias}"
    typed = {_key(name): value for name, value in (known | registration.scores).items()}
    facts = {name: typed[name] if str(typed.get(name)) == value else value for name, value in sorted(tags.items())}
    return Registered(version=str(version.version), note=note, uri=registration.uri, facts=facts)


def _has(name: str, version: str, digest: str, *, address: str) -> bool:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        there = MlflowClient(tracking_uri=address, registry_uri=address).get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return bool(there.tags.get(_key(DIGEST_KEY)) == digest)


@contextlib.contextmanager
def _tracking_run(client: MlflowClient, registration: Registration, run: TrackingRun, *, local: bool) -> Iterator[str]:
    """Log a tracking run around the block, which ends as finished, or as failed if the block fails."""
    from mlflow.entities import Metric, Param

    known = client.get_experiment_by_name(registration.name)
    root = Path(run.artifact_root, _key(registration.name)).as_uri() if local else None
    experiment = known.experiment_id if known else client.create_experiment(registration.name, artifact_location=root)
    tags = {"mlflow.user": registration.author, _RUN_TAG: registration.run_id}
    killed = f"attributes.status = '{RUNNING}' and tags.`{_RUN_TAG}` = '{registration.run_id}'"
    for leftover in client.search_runs([experiment], killed):
        client.set_terminated(leftover.info.run_id, "KILLED")
    run_id = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
    try:
        now = int(time.time() * 1000)
        numbers = {name: value for name, value in registration.scores.items() if not isinstance(value, str)}
        metrics = [Metric(_key(name), value, now, 0) for name, value in numbers.items()]
        metrics += [Metric(_key(name), value, now, step) for name, value, step in _points(Path(run.curve))]
        params = [Param(_key(name), str(value)) for name, value in run.parameters.items()]
        for kind, entities in {"metrics": metrics, "params": params}.items():
            size = _ENTITIES_PER_BATCH[kind]
            for start in range(0, len(entities), size):
                client.log_batch(run_id, **{kind: entities[start : start + size]})
        for path, file in run.files.items():
            client.log_artifact(run_id, file, str(Path(path).parent) if "/" in path else None)
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def _listed(name: str | None, address: str) -> Iterator[dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address, registry_uri=address)
    aliases = {model.name: model.aliases for model in _pages(client.search_registered_models)}
    condition = f"name = '{name}'" if name else ""
    for version in _pages(lambda **page: client.search_model_versions(condition, **page)):
        own_aliases = [alias for alias, number in aliases[version.name].items() if str(number) == str(version.version)]
        yield asdict(
            ListedModel(
                name=version.name,
                version=str(version.version),
                aliases=tuple(own_aliases),
                uri=version.tags.get("uri", version.source or ""),
                registered_at=version.creation_timestamp,
                facts=dict(version.tags),
            )
        )


def _pages(request: Callable[..., Any]) -> Iterator[Any]:
    """Return all items of a listing that comes in pages."""
    token = None
    while True:
        page = request(page_token=token)
        yield from page
        if not (token := page.token):
            return


def _points(curve: Path) -> Iterator[tuple[str, float, int]]:
    """Return (metric, value, step) of every number in the curve except the step itself."""
    with curve.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                    yield f"train/{name}", float(value), row["step"]


def _key(name: str) -> str:
    """Return a name that MLflow accepts for a tag, a parameter or a metric (mlflow/utils/validation.py:332@3.17.2)."""
    return re.sub(r"[^\w.\- /:]", "_", name)


if __name__ == "__main__":
    child.main(_handle)
