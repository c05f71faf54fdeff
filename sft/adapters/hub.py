"""Owns the Hugging Face hub: what a reference points at, and fetching it. Only here: huggingface_hub, datasets.

`resolve` and `fetch_model` import huggingface_hub when called; rows of a dataset are written by a child process
(`python -m sft.adapters.hub`), so that `datasets` never loads into the orchestrator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters import child
from sft.errors import DataError

_REFERENCE = re.compile(
    r"^(?:hf://)?(?:datasets/)?(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$"
)
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRAIN_SPLITS = ("train", "train_sft", "train_gen", "training")
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]


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


def commit_of(repo: str, revision: str | None, *, kind: str) -> str:
    """The commit that a revision points at now; from the cache where the hub is away.

    Args:
        repo: ``org/name``.
        revision: Branch, tag or commit; None = the default branch.
        kind: ``model`` or ``dataset``.

    Raises:
        DataError: There is no such repository or revision, it is gated, or the hub is away and the cache has none.
    """
    if revision and _COMMIT.match(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        info = HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=10)
    except HfHubHTTPError as error:
        raise DataError(_refused(repo, revision, error)) from error
    except (OSError, OfflineModeIsEnabled, HTTPError) as error:
        folder = f"{kind}s--{repo.replace('/', '--')}"
        ref = Path(HF_HUB_CACHE) / folder / "refs" / (revision or "main")
        if ref.is_file():
            return ref.read_text(encoding="utf-8").strip()
        raise DataError(
            f"{kind} {repo}: no such path here, no copy in the cache, and the hub is away ({type(error).__name__})",
            fix="check the network and HF_ENDPOINT, or use a local folder",
        ) from error
    return str(info.sha)


def fetch_model(repo: str, revision: str | None) -> Path:
    """The local snapshot of a model, fetched where the cache lacks files; never pickled weights.

    Returns:
        The snapshot's folder, which is named by its commit.

    Raises:
        DataError: The hub refused or can't be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_MODEL_FILES))
    except HfHubHTTPError as error:
        raise DataError(_refused(repo, revision, error)) from error
    except (OSError, LocalEntryNotFoundError, HTTPError) as error:
        raise DataError(f"model {repo}: fetching broke off: {error}", fix="the same command continues") from error


def _refused(repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo}: no such repository on the hub, or it is private and HF_TOKEN is not set"
    return f"{repo}: the hub answered: {str(error).splitlines()[0]}"


def _write_rows(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: writes one split of a dataset as JSON Lines, streamed.

    Request: ``repo``, ``config``, ``commit``, ``split``, ``target``.
    """
    import datasets
    import msgspec
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    repo, commit = request["repo"], request["commit"]
    encode = msgspec.json.Encoder().encode
    try:
        config = chosen("config", repo, request["config"], datasets.get_dataset_config_names(repo, revision=commit))
        splits = datasets.get_dataset_split_names(repo, config, revision=commit)
        split = chosen("split", repo, request["split"], splits)
        count = 0
        with Path(request["target"]).open("wb") as file:
            for row in datasets.load_dataset(repo, config, split=split, revision=commit, streaming=True):
                count += 1
                try:
                    file.write(encode(row) + b"\n")
                except (TypeError, ValueError) as error:
                    raise DataError(f"dataset {repo}: row {count} holds what JSON can't: {error}") from error
    except HfHubHTTPError as error:
        raise DataError(_refused(repo, commit, error)) from error
    except (OSError, ValueError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"dataset {repo}: {' '.join(str(error).split())}") from error
    return {"rows": count, "split": split}


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


if __name__ == "__main__":
    child.main(_write_rows)
