"""Owns uploads to the Hugging Face hub, with the hub's own client, which sends no file that the hub has.

A model is one commit with its files and no others, and the uri names that commit. ``HF_TOKEN`` says who uploads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.adapters import hub
from sft.adapters.os import child
from sft.adapters.retry import RetryPolicy, retry
from sft.adapters.upload import RETRY_HINT, Update, Upload, Uploaded, check_child, digest_mismatch, run_child
from sft.errors import StageError
from sft.files import sha256_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_FILES_OF_THE_HUB = {".gitattributes"}
_RETRY = RetryPolicy(max_attempts=3, first_wait_seconds=0.5)
_CHANGED = 412


def upload(upload: Upload, *, folder: Path, update: Update) -> Uploaded:
    """Upload a model to a repository; create a private one if there is none.

    Args:
        upload: `host` is the organization or user, `path` the repository.
        folder: Private folder for the child process.
        update: Shows that it is at work: the client doesn't say how much it has sent.

    Raises:
        StageError: The hub refuses, can't be reached, or has other bytes than were sent.
    """
    return run_child(__name__, upload, uri=f"hf://{upload.host}/{upload.path}", folder=folder, update=update)


def check(host: str, path: str, *, folder: Path) -> str:
    """Ask whether the token may write to a repository; none is created.

    Args:
        host: The organization or user.
        path: The repository.
        folder: Private folder for the child process.

    Returns:
        What a person should know; empty if there is nothing.

    Raises:
        StageError: The token is not there, not known, for reading alone, or of nobody of that organization.
    """
    return check_child(__name__, host, path, uri=f"hf://{host}/{path}", folder=folder)


def _check_token(api: HfApi, model: Upload) -> str:
    """Ask whose token it is and what it may do (https://huggingface.co/docs/hub/security-tokens)."""
    from huggingface_hub import get_token

    repo, fix = f"{model.host}/{model.path}", "set HF_TOKEN to a token that may write there"
    if get_token() is None:
        raise StageError("there is no HF_TOKEN", fix=fix)
    with _translate_errors(repo):
        facts = hub.ask(api.whoami)
    role = facts.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise StageError("HF_TOKEN may read, and not write", fix=fix)
    if role == "fineGrained":
        return f"hf://{repo}: what a fine-grained token may write is known once it is tried"
    names = {facts.get("name"), *(each.get("name") for each in facts.get("orgs", []))}
    if model.host not in names:
        raise StageError(f"HF_TOKEN is of {facts.get('name')}, who is not in {model.host}", fix=fix)
    return ""


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    model = Upload(**request["upload"])
    repo, api = f"{model.host}/{model.path}", HfApi(library_name="sft")
    if request.get("is_check"):
        return {"note": _check_token(api, model)}
    with _translate_errors(repo):
        hub.ask(lambda: api.create_repo(repo, private=True, exist_ok=True))
        # Somebody else may change the repository after we have read it and before we commit.
        commit, num_sent, is_private = retry(
            lambda: _commit(api, repo, model),
            _RETRY,
            on=lambda error: hub.status_of(error) == _CHANGED or hub.may_pass(error),
            pause_of=hub.asked_seconds,
        )
        entries = hub.ask(lambda: api.get_paths_info(repo, list(model.files), revision=commit))
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    for name in model.files:
        if not _is_same(model, name, files.get(name)):
            raise digest_mismatch(model, name, _digest(files.get(name)))
    uri = f"hf://{repo}@{commit}"
    note = (
        f"uploaded {num_sent} of {len(model.files)} files to {uri}" if num_sent else f"{uri} has the same files already"
    )
    return asdict(Uploaded(uri=uri, note=note if is_private else f"{note}; that repository was there, and is public"))


def _commit(api: HfApi, repo: str, model: Upload) -> tuple[str, int, bool]:
    """Return the commit with the model's files and no others, how many it added, and whether all of it is private."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

    facts = api.repo_info(repo)
    head, is_private = str(facts.sha), bool(facts.private)
    tree = api.list_repo_tree(repo, recursive=True, revision=head)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    new = [name for name in model.files if not _is_same(model, name, files.get(name))]
    old = [name for name in files if name not in model.files and name not in _FILES_OF_THE_HUB]
    if not new and not old:
        return head, 0, is_private
    for name in new:
        if (digest := sha256_file(model.file(name))) != model.files[name]:
            raise digest_mismatch(model, name, digest)
    changes: list[Any] = [CommitOperationAdd(name, model.file(name)) for name in new]
    changes += [CommitOperationDelete(name, is_folder=False) for name in old]
    message = f"{model.name} {model.version}"
    made = api.create_commit(repo, changes, commit_message=message, parent_commit=head)
    return str(made.oid), len(new), is_private


def _is_same(model: Upload, name: str, entry: RepoFile | None) -> bool:
    """Return whether the hub's digest of a file is that of ours: sha256 of a large file, git's of the others."""
    if entry is None:
        return False
    if entry.lfs:
        return bool(entry.lfs.sha256 == model.files[name])
    file = model.file(name)
    return bool(entry.blob_id == git_blob(file)) and sha256_file(file) == model.files[name]


def _digest(entry: RepoFile | None) -> str:
    if entry is None:
        return "unknown: there is no such file"
    return f"sha256 {entry.lfs.sha256}" if entry.lfs else f"git's {entry.blob_id}"


def git_blob(file: Path) -> str:
    """Return git's name of a file's content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _translate_errors(repo: str) -> Iterator[None]:
    """Say what went wrong with a repository.

    Raises:
        StageError: In place of anything that the hub's client raises.
    """
    from huggingface_hub import errors

    try:
        yield
    except (OSError, ValueError, RuntimeError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        status = hub.status_of(error)
        reason = _reason(error)
        if status in {401, 403, 404}:
            message = f"the hub does not allow writing to {repo} ({status}: {reason})"
            fix = f"set HF_TOKEN to a token that may write there, and name an organization that exists; {RETRY_HINT}"
            raise StageError(message, fix=fix) from error
        if status is not None:
            raise StageError(f"the hub answers {status} for {repo}: {reason}", fix=RETRY_HINT) from error
        if isinstance(error, errors.HTTPError | errors.OfflineModeIsEnabled):  # type: ignore[attr-defined]
            message = f"the hub can't be reached ({type(error).__name__}: {reason})"
            raise StageError(message, fix=f"check the network, HF_ENDPOINT and HF_HUB_OFFLINE; {RETRY_HINT}") from error
        cause = f": {_reason(error.__cause__)}" if error.__cause__ else ""
        raise StageError(f"{reason}{cause}", fix=RETRY_HINT) from error


def _reason(error: BaseException) -> str:
    """Return the hub's own message if there is one, else the client's, without its link about status codes."""
    message = " ".join(str(getattr(error, "server_message", None) or error).split())
    return message.partition(" For more information")[0] or type(error).__name__


if __name__ == "__main__":
    child.main(_handle)
