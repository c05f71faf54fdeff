"""Owns the Hugging Face hub: what a reference points at, and fetching it. Only here: datasets; huggingface_hub
also in `sft.adapters.upload.hub`.

`commit_of` and `fetch_model` import huggingface_hub when called; the rows of a dataset are written by a child process,
so that `datasets` never loads into the orchestrator. Code that lies in a repository is never run here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sft.adapters import child, readers
from sft.adapters.process import run_module
from sft.errors import DataError

T = TypeVar("T")

_REFERENCE = re.compile(
    r"^(?:hf://)?(?:datasets/)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_URL_QUERY = re.compile(r"(?<=\S)\?\S+=\S+")  # a content network's address is signed there
_TRAIN_SPLITS = ("train", "train_sft", "train_gen", "training")
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
_SAME_WEIGHTS_AGAIN = ["*/*", "consolidated*"]  # onnx/, original/, Mistral's own layout
_TIMEOUT_SECONDS = 10.0
_PAUSES_SECONDS = (0.5, 1.0, 2.0)
_BATCH_ROWS = 1000


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

    with _in_our_words(kind, repo, revision):
        try:
            return _patiently(ask)
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

    with _in_our_words("model", repo, revision):
        return Path(_patiently(fetch))


def fetch_rows(
    reference: Reference, commit: str, split: str | None, folder: Path, progress: Callable[[int], None]
) -> Path:
    """Writes one split of a dataset as JSON Lines, streamed by a child process.

    Args:
        reference: Repository and config.
        commit: What is read of it.
        split: The split's name; None = the training split, or the only one.
        folder: Private folder.
        progress: Called with the bytes written so far.

    Returns:
        The file.

    Raises:
        StageError: The hub refused or can't be reached, it is not clear what to read, or JSON can't hold a column.
    """
    target = folder / "rows.jsonl"
    run_module(
        "sft.adapters.hub",
        {"repo": reference.repo, "config": reference.config, "commit": commit, "split": split, "target": str(target)},
        folder=folder,
        what=f"fetching {reference.repo}",
        env={"HF_DATASETS_CACHE": str(folder / "cache")},  # else `datasets` takes any old copy where the hub refuses
        poll=lambda: progress(target.stat().st_size if target.exists() else 0),
    )
    return target


def _write_rows(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: see `fetch_rows`."""
    import datasets

    repo, commit = request["repo"], request["commit"]
    with _in_our_words("dataset", repo, commit):
        place = _complete_copy(repo, commit) or _remote_place(repo, commit)
        configs = _patiently(lambda: datasets.get_dataset_config_names(place, revision=commit))
        config = chosen("config", repo, request["config"], configs)
        builder = _patiently(lambda: datasets.load_dataset_builder(place, config, revision=commit))
        splits = _json_files(builder) or builder.as_streaming_dataset()
        split = chosen("split", repo, request["split"], [str(name) for name in splits])
        rows = splits[split]
        with Path(request["target"]).open("wb") as file:
            file.writelines(as_written(rows) if isinstance(rows, list) else encoded(repo, rows))
    return {"config": config, "split": split}


def _complete_copy(repo: str, commit: str) -> str | None:
    """The folder of a dataset that was downloaded as a whole (``hf download``); None where a file is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        get_cached_repo_tree(repo, repo_type="dataset", revision=commit)  # without it, nobody knows what is missing
        return snapshot_download(repo, repo_type="dataset", revision=commit, local_files_only=True)
    return None


def _remote_place(repo: str, commit: str) -> str:
    """A dataset's address for `datasets`, with a scheme: without, a folder of that name would be taken for it.

    The card is fetched first, because `datasets` hides why the hub refuses a repository.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with suppress(RemoteEntryNotFoundError):
        _patiently(lambda: hf_hub_download(repo, "README.md", repo_type="dataset", revision=commit))
    return f"hf://datasets/{repo}"


def chosen(what: str, repo: str, wanted: str | None, present: list[str]) -> str:
    """The wanted config or split; without a wish the training split, or the only one.

    Raises:
        DataError: There is no such one, or it is not clear which.
    """
    how = f"dataset.uri=hf://{repo}:{present[0]}" if what == "config" else f"dataset.split={present[0]}"
    if wanted is not None:
        if wanted not in present:
            raise DataError(f"dataset {repo} has no {what} {wanted} but {', '.join(present)}", fix=how)
        return wanted
    for name in _TRAIN_SPLITS if what == "split" else ():
        if name in present:
            return name
    if len(present) == 1:
        return present[0]
    raise DataError(f"dataset {repo} has several {what}s: {', '.join(present)}", fix=how)


def _json_files(builder: Any) -> dict[str, list[str]]:
    """The files of each split where they are JSON that `as_written` can read; else none."""
    from datasets.packaged_modules.json.json import Json

    if not isinstance(builder, Json) or builder.config.field is not None:
        return {}
    files = {str(split): [str(name) for name in names] for split, names in builder.config.data_files.items()}
    return files if all(readers.supported(name) for names in files.values() for name in names) else {}


def as_written(files: Iterable[str]) -> Iterator[bytes]:
    """Rows of JSON files. `datasets` would make times of texts that are dates, and read nothing past a broken row."""
    from huggingface_hub import HfFileSystem

    for name in files:
        with HfFileSystem().open(name, "rb") if "://" in name else Path(name).open("rb") as stream:
            if name.endswith(".json") and stream.read(1) == b"{":  # many a .json on the hub holds JSON Lines
                name += "l"
            stream.seek(0)
            for _, rows in readers.batches(name, stream):
                yield rows


def encoded(repo: str, rows: Any) -> Iterator[bytes]:
    """Rows of a `datasets.IterableDataset` as JSON Lines.

    Raises:
        DataError: JSON can't hold a column, such as an image.
    """
    for column in rows.features.arrow_schema if rows.features else ():
        if not _fits_json(column.type):
            what = f"dataset {repo}: column {column.name} holds {column.type}, which JSON can't"
            raise DataError(what, fix="choose a config without it, or bring the dataset as JSON Lines")
    encode = msgspec.json.Encoder(enc_hook=_plain).encode
    for batch in rows.iter(batch_size=_BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            yield encode(dict(zip(batch, values, strict=True))) + b"\n"


def _fits_json(kind: Any) -> bool:
    """Whether an Arrow type has neither binary parts, which msgspec would write as base64 text, nor durations."""
    from pyarrow import types

    tests = types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_duration
    if any(is_unfit(kind) for is_unfit in tests):
        return False
    return all(_fits_json(kind.field(number).type) for number in range(kind.num_fields))


def _plain(value: object) -> str:
    """What msgspec doesn't know: pandas' kind of time, in which `datasets` gives nanoseconds."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise NotImplementedError(f"JSON can't hold a {type(value).__name__}")


def _patiently(ask: Callable[[], T]) -> T:
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
def _in_our_words(kind: str, repo: str, revision: str | None) -> Iterator[None]:
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


if __name__ == "__main__":
    child.main(_write_rows)
