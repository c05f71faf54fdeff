"""Owns downloads from the Hugging Face hub: the commit of a revision, a model's files; ``rows`` reads datasets.

Only this package imports datasets; huggingface_hub is also imported by `sft.adapters.upload.hub`. Both are imported
when they are needed. Code in a repository is never run here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sft.adapters.retry import RetryPolicy, retry, retry_after_seconds
from sft.errors import DataError
from sft.memory_limit import memory_limit

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

_REFERENCE = re.compile(
    r"^(?:hf://)?(?:datasets/)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_URL_QUERY = re.compile(r"(?<=[^\s?])\?[^\s=]+=\S+")  # a content network's address is signed there
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_FACTS = ["config.json", "tokenizer_config.json", "chat_template.jinja"]
_OTHER_LAYOUTS = ["*/*", "consolidated*"]  # onnx/, original/, Mistral's own layout
_TIMEOUT_SECONDS = 10.0
_ANSWER_BYTES = 400 << 20
"""Memory that an answer of facts may take; a repository of 100,000 files needs a tenth."""
_LONGEST_PAUSE_SECONDS = 60.0
_BUSY = 429
_RESET = re.compile(r";\s{0,9}t\s{0,9}=\s{0,9}([0-9]+)", re.ASCII)
_MAX_DIGITS = 18


@dataclass(frozen=True)
class Reference:
    """A repository on the hub, as a person writes it: ``org/name:config@revision``."""

    repo: str
    config: str | None = None
    revision: str | None = None


def parse(uri: str) -> Reference | None:
    """Return the reference in ``hf://org/name[:config][@revision]`` or a bare ``org/name``; None if it is neither."""
    match = _REFERENCE.match(uri)
    return Reference(match["repo"], match["config"], match["revision"]) if match else None


def cache_folder() -> Path:
    """Return the folder of the hub client's cache (huggingface_hub's "Manage your cache"), without importing it."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def cached_model(repo: str, revision: str | None) -> Path:
    """Return the folder in which the cache would keep a model; it may not exist."""
    folder = cache_folder() / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or "main"
    return folder / "snapshots" / commit


def commit_of(repo: str, revision: str | None, *, kind: str) -> str:
    """Return the commit that a revision points at now, or the one downloaded last if the hub can't be reached.

    Args:
        repo: ``org/name``.
        revision: Branch or tag; None = the default branch. A commit is returned without asking.
        kind: ``model`` or ``dataset``.

    Raises:
        DataError: There is no such repository or revision, or the hub can't be reached and the cache has none.
    """
    if revision and _COMMIT.match(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    def ask_commit() -> str:
        with memory_limit(_ANSWER_BYTES):
            return str(HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=_TIMEOUT_SECONDS).sha)

    with translate_errors(kind, repo, revision):
        try:
            return ask(ask_commit)
        except MemoryError as error:
            message = f"{kind} {repo}: the hub's answer takes more than {_ANSWER_BYTES >> 20} MiB"
            raise DataError(message, fix="check HF_ENDPOINT") from error
        except Exception as error:
            if not _is_unreachable(error):
                raise
            with suppress(RevisionResolutionError):
                return HfApi().resolve_revision(repo, revision=revision, repo_type=kind, local_files_only=True).resolved
            raise


def fetch_config(repo: str, revision: str | None) -> Path:
    """Download a model's ``config.json`` into the cache, and return it there.

    Raises:
        DataError: There is none, or the hub refused or can't be reached.
    """
    from huggingface_hub import hf_hub_download

    commit_of(repo, revision, kind="model")  # gives up at once where the hub is away; the client's download doesn't
    with translate_errors("model", repo, revision):
        return Path(ask(lambda: hf_hub_download(repo, "config.json", revision=revision)))


def fetch_facts(repo: str, revision: str | None) -> tuple[Path, list[str]]:
    """Download what says how a model is used, some kilobytes: its config, its tokenizer's settings, its chat template.

    Returns:
        The snapshot's folder, and the names of all files that the hub has of it.

    Raises:
        DataError: The hub refused or can't be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    with translate_errors("model", repo, revision):
        names = ask(lambda: HfApi().list_repo_files(repo, revision=revision))
        with _no_bars():
            return Path(ask(lambda: snapshot_download(repo, revision=revision, allow_patterns=_FACTS))), names


@contextmanager
def _no_bars() -> Iterator[None]:
    """Show no bars for files of some kilobytes."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def fetch_model(repo: str, revision: str | None) -> Path:
    """Download what the cache lacks of a model, never pickled weights.

    Returns:
        The snapshot's folder, which is named by its commit.

    Raises:
        DataError: The hub refused or can't be reached.
    """
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=_MODEL_FILES, ignore_patterns=_OTHER_LAYOUTS)

    with translate_errors("model", repo, revision):
        return Path(ask(download))


def ask(request: Callable[[], T]) -> T:
    """Return the hub's answer; ask again while it is busy or fails. Its client does so for files, but not for facts."""
    bound_pauses()
    return retry(request, RetryPolicy(max_attempts=4, first_wait_seconds=0.5), on=may_pass, pause_of=asked_seconds)


def may_pass(error: BaseException) -> bool:
    """Return whether the hub is busy or has failed: it answers 429, or 500 and above."""
    status = status_of(error) or 0
    return status == _BUSY or status >= 500


def asked_seconds(error: BaseException) -> float:
    """Return the pause that the hub asked for."""
    answer = _answer_of(error)
    return retry_after_seconds(answer.response.headers.get("Retry-After", "")) if answer else 0.0


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the hub's answer; None if there was no answer."""
    answer = _answer_of(error)
    return answer.response.status_code if answer else None


def _answer_of(error: BaseException) -> HfHubHTTPError | None:
    from huggingface_hub.errors import HfHubHTTPError

    answers = (cause for cause in (error, error.__cause__) if isinstance(cause, HfHubHTTPError))
    return next(answers, None)


@cache
def bound_pauses() -> None:
    """Make no pause that a server asks for longer than `_LONGEST_PAUSE_SECONDS`: the hub's client obeys any.

    It reads the headers after this (http_backoff, huggingface_hub/utils/_http.py:527@2.4.0).
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def bound(response: Any) -> None:
        asked = retry_after_seconds(response.headers.get("Retry-After", ""))
        reset = _RESET.search(response.headers.get("ratelimit", ""))
        if reset and int(reset[1][:_MAX_DIGITS]) > _LONGEST_PAUSE_SECONDS:
            del response.headers["ratelimit"]
            asked = _LONGEST_PAUSE_SECONDS
        if asked:
            response.headers["Retry-After"] = str(math.ceil(min(asked, _LONGEST_PAUSE_SECONDS)))

    def client() -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks.get("response", ()), bound]}
        return client

    set_client_factory(client)


def _is_unreachable(error: BaseException) -> bool:
    """Return whether the hub gave no answer, or failed itself."""
    from huggingface_hub import errors

    unreachable = errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError  # type: ignore[attr-defined]
    return isinstance(error, unreachable) and (may_pass(error) or status_of(error) is None)


@contextmanager
def translate_errors(kind: str, repo: str, revision: str | None) -> Iterator[None]:
    """Say what went wrong with a repository.

    Raises:
        DataError: In place of anything that the hub's libraries raise.
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
        status = status_of(error)
        if _is_unreachable(error):
            why = f"answers {status}" if status else f"can't be reached ({type(error.__cause__ or error).__name__})"
            message = f"{what}: no such path here, no complete copy in the cache, and the hub {why}"
            raise DataError(message, fix="check the network and HF_ENDPOINT, or use a local folder") from error
        if status in {401, 403}:
            raise DataError(f"{what}: the hub refuses access ({status})", fix="check HF_TOKEN") from error
        message = _URL_QUERY.sub("", " ".join(str(error).split()))
        raise DataError(f"{what}: {message}") from error
