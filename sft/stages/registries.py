"""Which registry a configuration names: the one place that tells registries apart.

Another registry is another case of `registry_of`, a module in ``sft/adapters/registry``, a member of `RegistryKind` and
a YAML (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sft.adapters.registry import ListedModel, Registered, Registration, kubeflow, mlflow
from sft.adapters.registry.mlflow import TrackingRun
from sft.config.schema import OnConflict, RegistryConfig, RegistryKind


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry.

    Attributes:
        address: Where it is.
        register: Registers a model version, or finds it there; takes the curve of its run, and a folder for logs.
        models: Returns every registered version, of all models or of one; takes a folder for logs.
    """

    address: str
    register: Callable[[Registration, TrackingRun, Path], Registered]
    models: Callable[[str | None, Path], list[ListedModel]]


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
            is_there = bool(cfg.address) or database.is_file()
            return Registry(
                address=address,
                register=lambda version, run, logs: mlflow.register(version, run, address=address, folder=logs),
                # Asking for a database that is not there would make it.
                models=lambda name, logs: mlflow.models(name, address=address, folder=logs) if is_there else [],
            )
        case RegistryKind.kubeflow:
            if not cfg.address:
                return None
            ca = Path(cfg.ca).expanduser() if cfg.ca else None
            counts_up = cfg.on_conflict is OnConflict.next_version
            return Registry(
                address=cfg.address,
                register=lambda version, _, logs: kubeflow.register(
                    version, address=cfg.address, port=cfg.port, folder=logs, ca=ca, next_version=counts_up
                ),
                models=lambda name, logs: kubeflow.models(name, address=cfg.address, port=cfg.port, folder=logs, ca=ca),
            )


def embedded_mlflow(run_root: Path) -> Path:
    """Return the database of the registry that needs no server."""
    return run_root.absolute() / "mlflow.db"
