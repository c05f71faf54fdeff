"""Owns OpenSSF model signing with keys that lie in files. Only here: model-signing.

A signature covers every file of a folder but itself. Who made it is known only to those who have the public key from
somewhere else than the folder.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import StageError

SIGNATURE = "model.sig"
KEY_FILE = "SFT_SIGNING_KEY_FILE"
"""Environment variable with the path of the private key of `registry.sign=true`."""
KEY_PASSWORD = "SFT_SIGNING_KEY_PASSWORD"
"""Environment variable with the password of the private key, where it has one."""


def private_key(setting: bool | str) -> Path:
    """The key that `registry.sign` names.

    Raises:
        StageError: There is none, or the extra is not installed.
    """
    named = os.environ.get(KEY_FILE, "") if setting is True else str(setting)
    if not named:
        raise StageError(f"registry.sign=true needs a private key: {KEY_FILE} is not set", fix=_new_key("signing.pem"))
    key = Path(named).expanduser()
    if not key.is_file():
        raise StageError(f"registry.sign: no private key at {key}", fix=_new_key(str(key)))
    _installed()
    return key


def sign(folder: Path, key: Path) -> None:
    """Signs a folder: writes `SIGNATURE` into it.

    Raises:
        StageError: The key can't be used.
    """
    from model_signing import hashing, signing

    password = os.environ.get(KEY_PASSWORD)
    signature = folder / SIGNATURE
    with _in_our_words(f"registry.sign: {key} can't sign"):
        (
            signing.Config()
            .set_hashing_config(hashing.Config().set_ignored_paths(paths=[signature]))
            # bytes, though declared as text: cryptography takes nothing else (_signing/sign_ec_key.py:93@1.1.1)
            .use_elliptic_key_signer(private_key=key, password=password.encode() if password else None)
            .sign(folder, signature)
        )


def check(folder: Path, public_key: Path) -> None:
    """Checks a folder against its signature.

    Raises:
        StageError: Another key has signed it, or it was changed since.
    """
    _installed()
    from model_signing import verifying

    with _in_our_words(f"{folder / SIGNATURE}: not a signature of this folder by {public_key}"):
        verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(folder, folder / SIGNATURE)


def _installed() -> None:
    if importlib.util.find_spec("model_signing") is None:
        raise StageError("signatures need the package model-signing", fix="pip install 'sft[signing]'")


def _new_key(path: str) -> str:
    return f"openssl ecparam -name prime256v1 -genkey -noout -out {path}"


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    """Puts into our words what the library and cryptography raise.

    Raises:
        StageError: In place of it.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        yield
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, OSError) as error:
        raise StageError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
