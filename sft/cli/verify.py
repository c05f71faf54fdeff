"""`sft verify`: whether a run or a model is still what its record says."""

from __future__ import annotations

from pathlib import Path

from sft.adapters.signing import Trusted
from sft.errors import ConfigError, Problem, VerificationError
from sft.progress import Progress
from sft.runner.verify import verify


def execute(path: str, key: str | None, identity: str | None, issuer: str | None) -> int:
    """Check a run's folder or a model's folder.

    Args:
        path: The folder.
        key: File of the public key of who should have signed the model.
        identity: Who should have signed it through Sigstore: an address, a workflow's URL.
        issuer: The identity provider that vouches for that.

    Raises:
        ConfigError: An identity without an issuer, or the other way round, or a key besides.
        VerificationError: Something is not as recorded; every difference is named.
    """
    progress = Progress()
    trusted = _trusted(key, identity, issuer)
    found = verify(Path(path), trusted=trusted)
    for note in found.notes:
        progress.say(f"- {note}")
    if found.problems:
        raise VerificationError(found.what, found.problems)
    progress.say(f"{found.what}: {found.num_files} files, everything is as recorded")
    if not trusted:
        progress.say("not proven: who made it; a record that was made up whole looks the same (--key, --identity)")
    if trusted:
        progress.say(f"signed with {trusted}" if trusted.key else f"signed by {trusted}")
    if found.digest:
        progress.say(f"package.digest {found.digest}: a registry that holds another one holds another model")
    return 0


def _trusted(key: str | None, identity: str | None, issuer: str | None) -> Trusted | None:
    if bool(identity) != bool(issuer):
        rule = "go together: who signed, and who vouches for that"
        raise ConfigError([Problem(key="--identity and --issuer", rule=rule)])
    if key and identity:
        raise ConfigError([Problem(key="--key", rule="a model is signed with a key or by an identity, not both")])
    if key:
        return Trusted(Path(key))
    return Trusted(None, identity, issuer) if identity and issuer else None
