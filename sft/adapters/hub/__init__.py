"""Owns the Hugging Face hub: what a reference points at, and fetching it. Only here: datasets; huggingface_hub
also in `sft.adapters.upload.hub`.

`commit_of` and `fetch_model` import huggingface_hub when called; ``rows`` fetches the rows of a dataset. Code that lies
in a repository is never run here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sft.errors import DataError

T = TypeVar("T")

_REFERENCE = re.compile(
    r"^(?:hf://)?(?:datasets/)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_URL_QUERY = re.compile(r"(?<=\S)\?\S+=\S+")  # a content network's address is signed there
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_SAME_WEIGHTS_AGAIN = ["*/*", "consolidated*"]  # onnx/, original/, Mistral's own layout
_TIMEOUT_SECONDS = 10.0
_PAUSES_SECONDS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Reference:
    """A repository on the hub, as a person writes it: ``org/name:config@revision``."""

    repo: str
    config: str | None = None
    revision: str | None = None


def parse(uri: str) -> Reference | None:
    """The reference in ``hf://org/name[:config][@revision]`` or a bare ``org/name``; None where it is none."""
    match = _REFERENCE.match(uri)
    return Reference(match["repo"], match["config"], match["revision"]) if match else None


def cache() -> Path:
    """Where the hub's client keeps copies (huggingface_hub's "Manage your cache"), without importing it."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def cached_model(repo: str, revision: str | None) -> Path:
    """Where the copy of a model lies, if there is one."""
    folder = cache() / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or "main"
    return folder / "snapshots" / commit


def commit_of(repo: str, revision: str | None, *, kind: str) -> str:
    """The commit that a revision points at now; where the hub is away, the one that was downloaded last.

    Args:
        repo: ``org/name``.
        revision: Branch or tag; None = the default branch. A commit is taken as it is, without asking.
        kind: ``model`` or ``dataset``.

    Raises:
        DataError: There is no such repository or revision, or the hub is away and the cache has none.
    """
    if revision and _COMMIT.match(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    def ask() -> str:
        return str(HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=_TIMEOUT_SECONDS).sha)

    with in_our_words(kind, repo, revision):
        try:
            return patiently(ask)
        except Exception as error:
            if not _is_away(error):
                raise
            with suppress(RevisionResolutionError):
                return HfApi().resolve_revision(repo, revision=revision, repo_type=kind, local_files_only=True).resolved
            raise


def fetch_model(repo: str, revision: str | None) -> Path:
    """The local snapshot of a model, fetched where the cache lacks files; never pickled weights.

    Returns:
        The snapshot's folder, which is named by its commit.

    Raises:
        DataError: The hub refused or can't be reached.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return snapshot_download(
            repo, revision=revision, allow_patterns=_MODEL_FILES, ignore_patterns=_SAME_WEIGHTS_AGAIN
        )

    with in_our_words("model", repo, revision):
        return Path(patiently(fetch))


def patiently(ask: Callable[[], T]) -> T:
    """Asks again where the hub fails; its client does so for files, but not for facts."""
    for seconds in _PAUSES_SECONDS:
        try:
            return ask()
        except Exception as error:
            if (_status(error) or 0) < 500:
                raise
            time.sleep(seconds)
    return ask()


def _status(error: BaseException) -> int | None:
    """The HTTP status in an answer of the hub; None where there was no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    answers = (one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError))
    return next((one.response.status_code for one in answers), None)


def _is_away(error: BaseException) -> bool:
    """Whether there was no answer, or none that has to do with what was asked."""
    from huggingface_hub import errors

    unreached = errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError  # type: ignore[attr-defined]
    return isinstance(error, unreached) and (_status(error) or 500) >= 500


@contextmanager
def in_our_words(kind: str, repo: str, revision: str | None) -> Iterator[None]:
    """Says what went wrong with a repository.

    Raises:
        DataError: In place of whatever the hub's libraries raise.
    """
    from huggingface_hub import errors

    what = f"{kind} {repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DataError(f"{what} is gated", fix="accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        message = f"{what}: no such path here, and no such repository on the hub, or it is private"
        raise DataError(message, fix="check the name, or set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{what} has no revision {revision}") from error
    except (OSError, ValueError, RuntimeError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        status = _status(error)
        if _is_away(error):
            why = f"answers {status}" if status else f"can't be reached ({type(error.__cause__ or error).__name__})"
            message = f"{what}: no such path here, no complete copy in the cache, and the hub {why}"
            raise DataError(message, fix="check the network and HF_ENDPOINT, or use a local folder") from error
        if status in {401, 403}:
            raise DataError(f"{what}: the hub refuses access ({status})", fix="check HF_TOKEN") from error
        said = _URL_QUERY.sub("", " ".join(str(error).split()))
        raise DataError(f"{what}: {said}") from error
