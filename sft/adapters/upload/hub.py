"""Owns uploads to the Hugging Face hub, with its own client: what the hub has of a file is not sent again.

A model is one commit, with its files and no others, and the uri names that commit. Who asks is known by ``HF_TOKEN``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.adapters.os import child
from sft.adapters.retry import RetryPolicy, retry
from sft.adapters.upload import RETRY_HINT, Told, Upload, Uploaded, other_content, run
from sft.errors import StageError
from sft.files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_HUBS_OWN = {".gitattributes"}
_RETRY = RetryPolicy(max_attempts=3, first_wait_seconds=0.5)
_CHANGED = 412


def upload(upload: Upload, *, folder: Path, told: Told) -> Uploaded:
    """Uploads a model to a repository, which is made, private, where there is none.

    Args:
        upload: `host` is the organization or user, `path` the repository.
        folder: Private.
        told: Told that it is at work: the client doesn't say how far it is.

    Raises:
        StageError: The hub refuses, can't be reached, or has other bytes than were sent.
    """
    return run(__name__, upload, uri=f"hf://{upload.host}/{upload.path}", folder=folder, told=told)


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    model = Upload(**request["upload"])
    repo, api = f"{model.host}/{model.path}", HfApi(library_name="sft")
    with _in_our_words(repo):
        api.create_repo(repo, private=True, exist_ok=True)
        # Between our look and our commit somebody else may have changed the repository.
        commit, num_sent = retry(lambda: _commit(api, repo, model), _RETRY, on=lambda e: _status(e) == _CHANGED)
        found = api.get_paths_info(repo, list(model.files), revision=commit)
        there = {one.path: one for one in found if isinstance(one, RepoFile)}
    for name in model.files:
        if not _is_same(model, name, there.get(name)):
            raise other_content(model, name, _digest(there.get(name)))
    uri = f"hf://{repo}@{commit}"
    note = (
        f"uploaded {num_sent} of {len(model.files)} files to {uri}" if num_sent else f"the same files are {uri} already"
    )
    return asdict(Uploaded(uri=uri, note=note))


def _commit(api: HfApi, repo: str, model: Upload) -> tuple[str, int]:
    """Return the commit that has the model's files and no others, and how many of them it added."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

    head = str(api.repo_info(repo).sha)
    tree = api.list_repo_tree(repo, recursive=True, revision=head)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    new = [name for name in model.files if not _is_same(model, name, files.get(name))]
    old = [name for name in files if name not in model.files and name not in _HUBS_OWN]
    if not new and not old:
        return head, 0
    for name in new:
        if (digest := sha256_file(model.file(name))) != model.files[name]:
            raise other_content(model, name, digest)
    changes: list[Any] = [CommitOperationAdd(name, model.file(name)) for name in new]
    changes += [CommitOperationDelete(name, is_folder=False) for name in old]
    message = f"{model.name} {model.version}"
    return str(api.create_commit(repo, changes, commit_message=message, parent_commit=head).oid), len(new)


def _is_same(model: Upload, name: str, there: RepoFile | None) -> bool:
    """Whether the hub's digest of a file is that of ours: sha256 of a large one, git's of the others."""
    if there is None:
        return False
    if there.lfs:
        return bool(there.lfs.sha256 == model.files[name])
    file = model.file(name)
    return bool(there.blob_id == git_blob(file)) and sha256_file(file) == model.files[name]


def _digest(there: RepoFile | None) -> str:
    if there is None:
        return "unknown: there is no such file"
    return f"sha256 {there.lfs.sha256}" if there.lfs else f"git's {there.blob_id}"


def git_blob(file: Path) -> str:
    """Git's name of a file's content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _in_our_words(repo: str) -> Iterator[None]:
    """Says what went wrong with a repository.

    Raises:
        StageError: In place of whatever the hub's client raises.
    """
    from huggingface_hub import errors

    try:
        yield
    except (OSError, ValueError, RuntimeError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        status = _status(error)
        said = _said(error)
        if status in {401, 403, 404}:
            message = f"the hub does not let us write {repo} ({status}: {said})"
            fix = f"set HF_TOKEN to a token that may write there, and make it below a name that exists; {RETRY_HINT}"
            raise StageError(message, fix=fix) from error
        if status is not None:
            raise StageError(f"the hub answers {status} for {repo}: {said}", fix=RETRY_HINT) from error
        if isinstance(error, errors.HTTPError | errors.OfflineModeIsEnabled):  # type: ignore[attr-defined]
            message = f"the hub can't be reached ({type(error).__name__}: {said})"
            raise StageError(message, fix=f"check the network, HF_ENDPOINT and HF_HUB_OFFLINE; {RETRY_HINT}") from error
        cause = f": {_said(error.__cause__)}" if error.__cause__ else ""
        raise StageError(f"{said}{cause}", fix=RETRY_HINT) from error


def _said(error: BaseException) -> str:
    """The hub's own words where it has some, else the client's, without where to read about statuses."""
    words = " ".join(str(getattr(error, "server_message", None) or error).split())
    return words.partition(" For more information")[0] or type(error).__name__


def _status(error: BaseException) -> int | None:
    """The HTTP status in an answer of the hub; None where there was no answer."""
    from huggingface_hub.errors import HfHubHTTPError

    answers = (one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError))
    return next((one.response.status_code for one in answers), None)


if __name__ == "__main__":
    child.main(_handle)
