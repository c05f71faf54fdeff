"""The rows of a dataset of the hub, streamed by a child process as JSON Lines: `datasets` never loads into the
orchestrator, and code that lies in a repository is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters import readers
from sft.adapters.hub import Reference, ask, translate_errors
from sft.adapters.os import child
from sft.adapters.os.process import run_module
from sft.errors import DataError

_TRAIN_SPLITS = ("train", "train_sft", "train_gen", "training")
_BATCH_ROWS = 1000


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
        __name__,
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
    with translate_errors("dataset", repo, commit):
        place = _complete_copy(repo, commit) or _remote_place(repo, commit)
        configs = ask(lambda: datasets.get_dataset_config_names(place, revision=commit))
        config = chosen("config", repo, request["config"], configs)
        builder = ask(lambda: datasets.load_dataset_builder(place, config, revision=commit))
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
        ask(lambda: hf_hub_download(repo, "README.md", repo_type="dataset", revision=commit))
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


if __name__ == "__main__":
    child.main(_write_rows)
