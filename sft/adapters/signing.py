"""Owns OpenSSF model signing: with a key in a file, or keyless through Sigstore. Only here: model-signing.

A signature covers every file of a folder except itself. To check who signed, a reader needs the public key, or the
signer's identity, from elsewhere than that folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft.errors import StageError
from sft.scratch import scratch

SIGNATURE = "model.sig"
FILE_SUFFIX = ".sig"
KEYLESS = "sigstore"
"""The value of `registry.sign` that asks for a signature without a key."""
KEY_FILE = "SFT_SIGNING_KEY_FILE"
"""Environment variable with the path of the private key of `registry.sign=true`."""
KEY_PASSWORD = "SFT_SIGNING_KEY_PASSWORD"
"""Environment variable with the password of the private key, if it has one."""
IDENTITY_TOKEN = "SIGSTORE_ID_TOKEN"
"""Environment variable with the OpenID Connect token that says who signs; without it a CI system is asked for one."""


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
    """Return who signs according to `registry.sign`; None if nobody does.

    Raises:
        StageError: There is no key, no identity, or the extra is not installed.
    """
    if not setting:
        return None
    if setting == KEYLESS:
        _check_installed()
        _identity_token()
        return Signer(None)
    path = os.environ.get(KEY_FILE, "") if setting is True else str(setting)
    if not path:
        raise StageError(f"registry.sign=true needs a private key: {KEY_FILE} is not set", fix=_new_key("signing.pem"))
    key = Path(path).expanduser()
    if not key.is_file():
        raise StageError(f"registry.sign: no private key at {key}", fix=_new_key(str(key)))
    _check_installed()
    return Signer(key)


def sign(folder: Path, signer: Signer) -> None:
    """Sign a folder: write `SIGNATURE` into it.

    Raises:
        StageError: The key can't be used, or Sigstore can't be reached or refuses.
    """
    from model_signing import hashing, signing

    signature, config = folder / SIGNATURE, signing.Config()
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[signature]))
    with _translate_errors(f"registry.sign: {signer} can't sign"):
        if signer.key is None:
            config.use_sigstore_signer(identity_token=_identity_token())
        else:
            password = os.environ.get(KEY_PASSWORD)
            # bytes, though declared as text: cryptography takes nothing else (_signing/sign_ec_key.py:93@1.1.1)
            config.use_elliptic_key_signer(private_key=signer.key, password=password.encode() if password else None)
        config.sign(folder, signature)


def check(folder: Path, trusted: Trusted) -> None:
    """Check a folder against its signature.

    Raises:
        StageError: Somebody else has signed it, it was changed since, or Sigstore's root of trust is not available.
    """
    _check_installed()
    from model_signing import verifying

    config = verifying.Config()
    with _translate_errors(
        f"{folder / SIGNATURE}: not a signature of this folder by {trusted.key or trusted.identity}"
    ):
        if trusted.key:
            config.use_elliptic_key_verifier(public_key=trusted.key)
        else:
            config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.issuer)
        config.verify(folder, folder / SIGNATURE)


def sign_file(file: Path, signer: Signer) -> None:
    """Sign one file: write its signature beside it, under its name with `FILE_SUFFIX`.

    Raises:
        StageError: As of `sign`.
    """
    with _alone(file) as folder:
        sign(folder, signer)
        shutil.copyfile(folder / SIGNATURE, file.with_name(file.name + FILE_SUFFIX))


def check_file(file: Path, trusted: Trusted) -> None:
    """Check a file against the signature beside it.

    Raises:
        StageError: As of `check`.
    """
    with _alone(file) as folder:
        shutil.copyfile(file.with_name(file.name + FILE_SUFFIX), folder / SIGNATURE)
        check(folder, trusted)


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """Give a folder that holds a copy of a file and nothing else: the library signs folders."""
    with scratch("signed") as private:
        folder = private / "signed"
        folder.mkdir()
        shutil.copyfile(file, folder / file.name)
        yield folder


def _identity_token() -> str:
    """Return an identity provider's token. Never ask a person: nobody watches a run.

    Raises:
        StageError: There is no such token.
    """
    if token := os.environ.get(IDENTITY_TOKEN, "").strip():
        return token
    from sigstore.oidc import detect_credential

    with _translate_errors("registry.sign=sigstore: this machine's identity is not available"):
        if token := detect_credential():
            return str(token)
    raise StageError(
        f"registry.sign={KEYLESS} needs an identity: {IDENTITY_TOKEN} is not set, and no CI system offers one",
        fix=f"set {IDENTITY_TOKEN} to an OpenID Connect token for the audience sigstore, or registry.sign=KEY.pem",
    )


def _check_installed() -> None:
    if importlib.util.find_spec("model_signing") is None:
        raise StageError("signatures need the package model-signing", fix="pip install 'sft-runner[signing]'")


def _new_key(path: str) -> str:
    return f"openssl ecparam -name prime256v1 -genkey -noout -out {path}"


@contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Translate what the library, Sigstore and cryptography raise.

    Raises:
        StageError: In place of it.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from sigstore.errors import Error as SigstoreError
    from sigstore.oidc import IdentityError

    expected = (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, OSError)
    try:
        yield
    except (*expected, SigstoreError, IdentityError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = f" ({type(error.__cause__).__name__})" if isinstance(error, SigstoreError) and error.__cause__ else ""
        raise StageError(f"{what}: {reason}{cause}") from error
