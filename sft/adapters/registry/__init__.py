"""What registering takes and returns, for every registry. ``mlflow`` and ``kubeflow`` have ``register`` and ``models``.

Each works in a child process, because its library takes seconds to import. Each may be repeated: a checkpoint that is
registered already is found by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass

Fact = str | int | float | bool
"""A value that a registry can hold about a model version."""

DIGEST_KEY = "checkpoint.digest"
"""The fact that says whether two versions are the same model."""

_OWN_GROUPS = (
    *("base.", "tuned.", "verdict.", "base_model.", "dataset.", "checkpoint.", "package."),
    *("versions.", "model.", "training.", "eval."),
)
_OWN = {"run_id", "base_model", "license", "libraryName", "gates", "git_commit", "uri", "record", "version", "author"}


def is_own(key: str) -> bool:
    """Return whether a fact is a registration's own: where a later one doesn't tell it, it no longer holds."""
    return key in _OWN or key.startswith(_OWN_GROUPS)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A model version to register.

    Attributes:
        name: Name of the registered model.
        version: Label of the version, chosen by a person.
        uri: Address of the model's files.
        facts: Where the model came from, by dotted key; holds `DIGEST_KEY`. Numbers are finite. These are few and for
            people.
        details: The rest: settings, versions, counts. A registry whose page shows every fact leaves them to the record.
        scores: The model's scores, and verdicts as texts, by dotted key; updated if the version exists already.
        run_id: The run that trained the model.
        origin: Kubeflow's `model_source_*` and `storage_*`, by those names.
        labels: Words by which people find it on a Kubeflow registry's page.
        worse: Scores on which it is worse than its base model: a registry's alias does not move to it.
    """

    name: str
    version: str
    description: str
    author: str
    format_name: str
    format_version: str
    uri: str
    facts: dict[str, Fact]
    details: dict[str, Fact]
    scores: dict[str, Fact]
    run_id: str
    origin: dict[str, str]
    labels: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        return str(self.facts[DIGEST_KEY])


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A model version that is registered.

    Attributes:
        version: The registry's name of it.
        note: What was done, as a person reads it.
        uri: Address of its files, as the registry spells it.
        facts: Facts and scores as the registry now holds them.
        api: Which of its APIs the registry has, where there are several.
    """

    version: str
    note: str
    uri: str
    facts: dict[str, Fact]
    api: str = ""


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model version as a registry lists it.

    Attributes:
        aliases: Names that point at it, if the registry has such.
        uri: Address of its files; empty if the registry doesn't say.
        registered_at: Milliseconds since the epoch.
        facts: Everything that the registry holds about it, by dotted key; MLflow's are all text.
        is_archived: Whether the registry's page hides it, or its model.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    uri: str
    registered_at: int
    facts: dict[str, Fact]
    is_archived: bool = False
