"""Owns OpenSSF model signing: with a key that lies in a file, or keyless through Sigstore. Only here: model-signing.

A signature covers every file of a folder but itself. Who made it is known only to those who have the public key, or the
signer's identity, from somewhere else than the folder.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft.errors import StageError

SIGNATURE = "model.sig"
KEYLESS = "sigstore"
"""The value of `registry.sign` that asks for a signature without a key."""
KEY_FILE = "SFT_SIGNING_KEY_FILE"
"""Environment variable with the path of the private key of `registry.sign=true`."""
KEY_PASSWORD = "SFT_SIGNING_KEY_PASSWORD"
"""Environment variable with the password of the private key, where it has one."""
IDENTITY_TOKEN = "SIGSTORE_ID_TOKEN"
"""Environment variable with the OpenID Connect token that says who signs; else what a CI system hands out."""


@dataclass(frozen=True)
class Signer:
    """Who signs.

    Attributes:
        key: File of the private key; None = Sigstore, which certifies an identity.
    """

    key: Path | None

    def __str__(self) -> str:
        return str(self.key) if self.key else "an identity that Sigstore certifies"


@dataclass(frozen=True)
class Trusted:
    """Whose signature is accepted.

    Attributes:
        key: File of the public key; None = `identity`, certified by `issuer`.
    """

    key: Path | None = None
    identity: str = ""
    issuer: str = ""

    def __str__(self) -> str:
        return f"the private key of {self.key}" if self.key else f"{self.identity}, according to {self.issuer}"


def signer(setting: bool | str) -> Signer | None:
    """Who signs according to `registry.sign`; None = nobody.

    Raises:
        StageError: There is no key, no identity, or the extra is not installed.
    """
    if not setting:
        return None
    if setting == KEYLESS:
        _installed()
        _identity_token()
        return Signer(None)
    named = os.environ.get(KEY_FILE, "") if setting is True else str(setting)
    if not named:
        raise StageError(f"registry.sign=true needs a private key: {KEY_FILE} is not set", fix=_new_key("signing.pem"))
    key = Path(named).expanduser()
    if not key.is_file():
        raise StageError(f"registry.sign: no private key at {key}", fix=_new_key(str(key)))
    _installed()
    return Signer(key)


def sign(folder: Path, signer: Signer) -> None:
    """Signs a folder: writes `SIGNATURE` into it.

    Raises:
        StageError: The key can't be used, or Sigstore can't be reached or refuses.
    """
    from model_signing import hashing, signing

    signature, config = folder / SIGNATURE, signing.Config()
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[signature]))
    with _in_our_words(f"registry.sign: {signer} can't sign"):
        if signer.key is None:
            config.use_sigstore_signer(identity_token=_identity_token())
        else:
            password = os.environ.get(KEY_PASSWORD)
            # bytes, though declared as text: cryptography takes nothing else (_signing/sign_ec_key.py:93@1.1.1)
            config.use_elliptic_key_signer(private_key=signer.key, password=password.encode() if password else None)
        config.sign(folder, signature)


def check(folder: Path, trusted: Trusted) -> None:
    """Checks a folder against its signature.

    Raises:
        StageError: Someone else has signed it, or it was changed since, or Sigstore's root of trust can't be had.
    """
    _installed()
    from model_signing import verifying

    config = verifying.Config()
    with _in_our_words(f"{folder / SIGNATURE}: not a signature of this folder by {trusted.key or trusted.identity}"):
        if trusted.key:
            config.use_elliptic_key_verifier(public_key=trusted.key)
        else:
            config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.issuer)
        config.verify(folder, folder / SIGNATURE)


def _identity_token() -> str:
    """Who signs, as an identity provider says it. Never asks a person: nobody watches a run.

    Raises:
        StageError: There is no such token.
    """
    if token := os.environ.get(IDENTITY_TOKEN, "").strip():
        return token
    from sigstore.oidc import detect_credential

    with _in_our_words("registry.sign=sigstore: this machine's identity can't be had"):
        if found := detect_credential():
            return str(found)
    raise StageError(
        f"registry.sign={KEYLESS} needs an identity: {IDENTITY_TOKEN} is not set, and no CI system offers one",
        fix=f"{IDENTITY_TOKEN}=<OpenID Connect token for the audience sigstore>, or registry.sign=KEY.pem",
    )


def _installed() -> None:
    if importlib.util.find_spec("model_signing") is None:
        raise StageError("signatures need the package model-signing", fix="pip install 'sft-runner[signing]'")


def _new_key(path: str) -> str:
    return f"openssl ecparam -name prime256v1 -genkey -noout -out {path}"


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    """Puts into our words what the library, Sigstore and cryptography raise.

    Raises:
        StageError: In place of it.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from sigstore.errors import Error as SigstoreError
    from sigstore.oidc import IdentityError

    ours = (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, OSError)
    try:
        yield
    except (*ours, SigstoreError, IdentityError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        reached = f" ({type(error.__cause__).__name__})" if isinstance(error, SigstoreError) and error.__cause__ else ""
        raise StageError(f"{what}: {said}{reached}") from error
