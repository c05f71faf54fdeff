"""The rows of a dataset of the hub, streamed by a child process as JSON Lines: `datasets` never loads into the
orchestrator, and code that lies in a repository is never run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters import readers
from sft.adapters.arrow_rows import as_json_lines, check_columns
from sft.adapters.hub import Reference, ask, translate_errors
from sft.adapters.os import child
from sft.adapters.os.process import run_module
from sft.adapters.split_names import Wanted, choose_split
from sft.errors import DataError

_BATCH_ROWS = 1000


@dataclass(frozen=True)
class FetchedRows:
    """Rows that came from the hub.

    Attributes:
        file: JSON Lines.
        left_out: What there is to say about the dataset's other splits; empty if it has none.
    """

    file: Path
    left_out: str


def fetch_rows(
    reference: Reference,
    commit: str,
    wanted: Wanted,
    folder: Path,
    *,
    ignored: Collection[str],
    max_bytes: int | None,
    progress: Callable[[int], None],
) -> FetchedRows:
    """Write one split of a dataset as JSON Lines, streamed by a child process.

    Args:
        reference: Repository and config.
        commit: What is read of it.
        wanted: Which split.
        folder: Private folder.
        ignored: Columns that needn't be read.
        max_bytes: What they may come to, as JSON Lines; None = any.
        progress: Called with the bytes written so far.

    Raises:
        StageError: The hub refused or can't be reached, it is not clear what to read, or JSON can't hold a column.
    """
    target = folder / "rows.jsonl"
    result = run_module(
        __name__,
        {
            "repo": reference.repo,
            "config": reference.config,
            "commit": commit,
            "split": wanted.split,
            "held_out": wanted.held_out,
            "ignored": list(ignored),
            "max_bytes": max_bytes,
            "target": str(target),
        },
        folder=folder,
        what=f"fetching {reference.repo}",
        env={"HF_DATASETS_CACHE": str(folder / "cache")},  # else `datasets` takes any old copy where the hub refuses
        poll=lambda: progress(target.stat().st_size if target.exists() else 0),
    )
    left_out = f"not read: {', '.join(result['left_out'])}; {wanted.key} chooses" if result["left_out"] else ""
    return FetchedRows(target, left_out)


def _write_rows(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: see `fetch_rows`."""
    import datasets

    repo, commit = request["repo"], request["commit"]
    with translate_errors("dataset", repo, commit):
        place = _complete_copy(repo, commit) or _remote_place(repo, commit)
        configs = ask(lambda: datasets.get_dataset_config_names(place, revision=commit))
        config = choose_config(repo, request["config"], configs)
        builder = ask(lambda: datasets.load_dataset_builder(place, config, revision=commit))
        splits = _json_files(builder) or builder.as_streaming_dataset()
        present = [str(name) for name in splits]
        split = choose_split(f"dataset {repo}", present, Wanted(request["split"], request["held_out"]))
        rows = splits[split]
        with Path(request["target"]).open("wb") as file:
            lines = as_written(rows) if isinstance(rows, list) else encoded(repo, rows, request["ignored"])
            file.writelines(_bounded(repo, lines, request["max_bytes"]))
    return {"config": config, "split": split, "left_out": [name for name in present if name != split]}


def _complete_copy(repo: str, commit: str) -> str | None:
    """Return the folder of a dataset that was downloaded as a whole (``hf download``); None where a file is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        get_cached_repo_tree(repo, repo_type="dataset", revision=commit)  # without it, nobody knows what is missing
        return snapshot_download(repo, repo_type="dataset", revision=commit, local_files_only=True)
    return None


def _remote_place(repo: str, commit: str) -> str:
    """Return a dataset's address for `datasets`, with a scheme: else a folder of that name would be taken.

    The card is fetched first, because `datasets` hides why the hub refuses a repository.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with suppress(RemoteEntryNotFoundError):
        ask(lambda: hf_hub_download(repo, "README.md", repo_type="dataset", revision=commit))
    return f"hf://datasets/{repo}"


def choose_config(repo: str, wanted: str | None, present: list[str]) -> str:
    """Choose among the configs of a dataset: the wanted one, or the only one.

    Raises:
        DataError: There is no such config, or it is not clear which.
    """
    fix = f"dataset.uri=hf://{repo}:{present[0]}"
    if wanted is not None and wanted not in present:
        raise DataError(f"dataset {repo} has no config {wanted} but {', '.join(present)}", fix=fix)
    if wanted is None and len(present) > 1:
        raise DataError(f"dataset {repo} has several configs: {', '.join(present)}", fix=fix)
    return wanted or present[0]


def _json_files(builder: Any) -> dict[str, list[str]]:
    """Return the files of each split where they are JSON that `as_written` can read; else none."""
    from datasets.packaged_modules.json.json import Json

    if not isinstance(builder, Json) or builder.config.field is not None:
        return {}
    files = {str(split): [str(name) for name in names] for split, names in builder.config.data_files.items()}
    return files if all(readers.supported(name) for names in files.values() for name in names) else {}


def as_written(files: Iterable[str]) -> Iterator[bytes]:
    """Yield the rows of JSON files.

    `datasets` would make times of texts that are dates, and read nothing past a broken row.
    """
    from huggingface_hub import HfFileSystem

    for name in files:
        is_on_hub = "://" in name
        with (
            HfFileSystem().open(name, "rb") if is_on_hub else Path(name).open("rb", buffering=0) as raw,
            io.BufferedReader(raw) as stream,  # the hub's own file has no `readline` with a limit
        ):
            for _, rows in readers.batches(name, stream):
                yield rows


def _bounded(repo: str, lines: Iterable[bytes], max_bytes: int | None) -> Iterator[bytes]:
    """Yield lines.

    Raises:
        DataError: They come to more than `max_bytes`.
    """
    num_bytes = 0
    for line in lines:
        num_bytes += len(line)
        if max_bytes is not None and num_bytes > max_bytes:
            message = f"dataset {repo}: its rows come to more than dataset.max_download_bytes={max_bytes}"
            raise DataError(message, fix="raise dataset.max_download_bytes if the size is right")
        yield line


def encoded(repo: str, rows: Any, ignored: Collection[str] = ()) -> Iterator[bytes]:
    """Yield the rows of a `datasets.IterableDataset` as JSON Lines.

    Raises:
        DataError: JSON can't hold a column that isn't ignored.
    """
    left_out = [name for name in ignored if rows.features and name in rows.features]
    rows = rows.remove_columns(left_out) if left_out else rows
    check_columns(f"dataset {repo}", rows.features.arrow_schema if rows.features else ())
    batches = rows.iter(batch_size=_BATCH_ROWS)
    each = (dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True))
    for line in as_json_lines(f"dataset {repo}", each, left_out):
        yield line + b"\n"


if __name__ == "__main__":
    child.main(_write_rows)
