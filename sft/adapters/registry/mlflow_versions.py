"""Owns what of a version that MLflow has already is made anew, and at which version the alias points."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sft.adapters.registry import Registration, is_own

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "candidate"
"""Points at the version registered last that is not worse than its base model: ``models:/<name>@candidate``. ("latest"
is reserved by MLflow.)"""
RUNNING = "RUNNING"
"""Status of a tracking run that has not ended."""


def renewed(
    client: MlflowClient, registration: Registration, version: Any, tags: Mapping[str, str], scores: Collection[str]
) -> tuple[dict[str, str], str]:
    """Bring a version of the same checkpoint up to date; return all its tags, and what was done in words.

    Args:
        client: MLflow's.
        registration: What is registered.
        version: MLflow's model version.
        tags: That it is to have, beside those of others.
        scores: Which of them are scores.
    """
    name, number, before = version.name, version.version, dict(version.tags)
    outdated = {key: value for key, value in tags.items() if before.get(key) != value}
    for key, value in outdated.items():
        client.set_model_version_tag(name, number, key, value)
    lapsed = sorted(key for key in before if is_own(key) and key not in tags)
    for key in lapsed:
        client.delete_model_version_tag(name, number, key)
    note = f"{name} version {number} is the same checkpoint already"
    are_rescored = bool(outdated.keys() & set(scores))
    note += "; its scores were updated" if are_rescored else ""
    note += f"; its tag uri is now {registration.uri}" if "uri" in outdated else ""
    if lapsed:
        more = f" and {len(lapsed) - 3} more" if len(lapsed) > 3 else ""
        note += f"; what this run does not tell was taken out: {', '.join(lapsed[:3])}{more}"
    if "run_id" in outdated:
        note += f"; its tags were of {before.get('run_id')} and are of this run now"
    if registration.description and registration.description != (version.description or ""):
        client.update_model_version(name, number, registration.description)
        note += "; its description was updated"
    if _was_killed(client, version):
        note += point_at(client, registration, number)
        client.set_terminated(version.run_id)
    elif are_rescored:
        note += _point_again(client, registration, number)
    return {key: value for key, value in (before | outdated).items() if key not in lapsed}, note


def point_at(client: MlflowClient, registration: Registration, version: str) -> str:
    """Let the alias point at a version, unless that is worse than its base model; return what was done, in words."""
    if registration.worse:
        return f"; the alias {ALIAS} does not move to it: worse than its base model on {', '.join(registration.worse)}"
    client.set_registered_model_alias(registration.name, ALIAS, version)
    return f", alias {ALIAS}"


def _point_again(client: MlflowClient, registration: Registration, version: str) -> str:
    """Let the alias point at a version with new scores if it points nowhere; return what was done, in words.

    It moves from no other version, which may be a newer one or a person's choice. Where it points at this one, which is
    worse than its base by the new scores, that is said: without an alias nothing would be served.
    """
    pointed = client.get_registered_model(registration.name).aliases.get(ALIAS)
    if pointed is None:
        return point_at(client, registration, version)
    if registration.worse and str(pointed) == str(version):
        told = f"the alias {ALIAS} points at it, although it is worse than its base model"
        return f"; {told} on {', '.join(registration.worse)}: move it if that counts"
    return ""


def _was_killed(client: MlflowClient, version: Any) -> bool:
    """Return whether whoever created a version did not get to its alias: its tracking run ends after that."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(version.run_id) and bool(client.get_run(version.run_id).info.status == RUNNING)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # somebody has deleted it
            raise
        return False
