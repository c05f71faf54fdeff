"""What a registry is told and what it answers. ``mlflow`` and ``kubeflow`` each have ``register`` and ``models``.

Both work in a child process, because either library takes seconds to import, and both may be repeated: a
checkpoint that is registered already is found by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass

Fact = str | int | float | bool
"""What a registry can hold about a model version."""

DIGEST_KEY = "checkpoint.digest"
"""The fact that says whether two versions are the same model."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One model version to be.

    Attributes:
        name: Registered model.
        version: Label of the version, chosen by a person.
        uri: Where the model files are.
        facts: Where the model came from, by dotted key; holds `DIGEST_KEY`. Numbers are finite.
        scores: What the model scored, by dotted key; brought up to date when the version exists already.
        run_id: The run that made the model.
        origin: Kubeflow's `model_source_*` and `storage_*`, by those names.
    """

    name: str
    version: str
    description: str
    author: str
    format_name: str
    format_version: str
    uri: str
    facts: dict[str, Fact]
    scores: dict[str, float]
    run_id: str
    origin: dict[str, str]

    @property
    def digest(self) -> str:
        return str(self.facts[DIGEST_KEY])


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A model version that is.

    Attributes:
        version: What the registry calls it.
        note: What was done, for a person.
        facts: Facts and scores as the registry now holds them.
    """

    version: str
    note: str
    facts: dict[str, Fact]


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model version as a registry lists it.

    Attributes:
        aliases: Names that point at it, where the registry has such.
        uri: Where its files are; empty where the registry doesn't say.
        registered_at: Milliseconds since the epoch.
        facts: Everything that the registry holds of it, by dotted key; MLflow's are all text.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    uri: str
    registered_at: int
    facts: dict[str, Fact]
