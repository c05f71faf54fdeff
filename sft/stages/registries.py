"""Which registry a configuration names: the one place that tells registries apart.

Another registry is another case of `registry_of`, a module in ``sft/adapters/registry``, a member of `RegistryKind` and
a YAML (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sft.adapters.registry import DIGEST_KEY, ListedModel, Registered, Registration, mlflow
from sft.adapters.registry.kubeflow import Kubeflow
from sft.adapters.registry.mlflow import TrackingRun
from sft.adapters.registry.mlflow_database import DATABASE, database_of
from sft.artifacts import RegisteredModel
from sft.config.schema import OnConflict, RegistryConfig, RegistryKind
from sft.errors import StageError


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry.

    Attributes:
        address: Where it is.
        register: Registers a model version, or finds it there; takes the curve of its run, and a folder for logs.
        models: Returns every registered version, of all models or of one; takes a folder for logs.
        check: Asks before anything is trained whether it could be registered, and returns what a person should know.
        has: Returns whether a model is registered still.
    """

    address: str
    register: Callable[[Registration, TrackingRun, Path], Registered]
    models: Callable[[str | None, Path], list[ListedModel]]
    check: Callable[[Path], str]
    has: Callable[[RegisteredModel, Path], bool]


def registry_of(cfg: RegistryConfig, *, database: Path) -> Registry | None:
    """Return the registry that a configuration names; None if it names none.

    Args:
        cfg: The settings.
        database: MLflow's, if no server is named.
    """
    match cfg.kind:
        case RegistryKind.none:
            return None
        case RegistryKind.mlflow:
            address = cfg.address or f"sqlite:///{database}"
            return Registry(
                address=address,
                register=lambda version, run, logs: mlflow.register(version, run, address=address, folder=logs),
                models=lambda name, logs: _of_mlflow(name, address, is_named=bool(cfg.address), logs=logs),
                check=lambda logs: mlflow.check(address=address, folder=logs) if cfg.address else "",
                has=lambda model, logs: mlflow.has(
                    model.name, model.version, str(model.metadata[DIGEST_KEY]), address=address, folder=logs
                ),
            )
        case RegistryKind.kubeflow:
            if not cfg.address:
                return None
            server = Kubeflow(cfg.address, port=cfg.port, ca=Path(cfg.ca).expanduser() if cfg.ca else None)
            counts_up, adopts = cfg.on_conflict is OnConflict.next_version, cfg.on_conflict is OnConflict.adopt
            return Registry(
                address=cfg.address,
                register=lambda version, _, logs: server.register(
                    version, folder=logs, next_version=counts_up, adopt=adopts
                ),
                models=lambda name, logs: server.models(name, folder=logs),
                check=lambda logs: server.check(
                    cfg.model_name, cfg.model_version if cfg.on_conflict is OnConflict.error else None, folder=logs
                ),
                has=lambda model, logs: server.has(
                    model.name, model.version, str(model.metadata[DIGEST_KEY]), folder=logs
                ),
            )


def _of_mlflow(name: str | None, address: str, *, is_named: bool, logs: Path) -> list[ListedModel]:
    """Return the versions that MLflow has; asking for a database that is not there would make it.

    Raises:
        StageError: MLflow refused, can't be reached, or the database that somebody named is not there.
    """
    database = database_of(address)
    if database is None or database.is_file():
        return mlflow.models(name, address=address, folder=logs)
    if is_named:
        raise StageError(f"{database}: there is no such database", fix="check registry.address")
    return []


def embedded_mlflow(run_root: Path) -> Path:
    """Return the database of the registry that needs no server."""
    return run_root.absolute() / DATABASE
