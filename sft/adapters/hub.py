"""Owns the Hugging Face hub: what a reference points at, and fetching it. Only here: huggingface_hub, datasets.

`resolve` and `fetch_model` import huggingface_hub when called; rows of a dataset are written by a child process
(`python -m sft.adapters.hub`), so that `datasets` never loads into the orchestrator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters import child
from sft.errors import DataError, SftError

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


def fetch_model(repo: str, commit: str) -> Path:
    """The local snapshot of a model, fetched where the cache lacks files; never pickled weights.

    Raises:
        DataError: The hub refused or can't be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

    try:
        return Path(snapshot_download(repo, revision=commit, allow_patterns=_MODEL_FILES))
    except HfHubHTTPError as error:
        raise DataError(_refused(repo, commit, error)) from error
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
    """Child: writes one split of a dataset as JSON Lines, streamed."""
    import datasets

    repo, config, commit = request["repo"], request["config"], request["commit"]
    try:
        configs = datasets.get_dataset_config_names(repo, revision=commit)
        if config is None and len(configs) > 1:
            raise DataError(
                f"dataset {repo} has several configs: {', '.join(configs)}", fix=f"dataset.uri=hf://{repo}:{configs[0]}"
            )
        name = config or configs[0]
        split = _split(repo, request["split"], datasets.get_dataset_split_names(repo, name, revision=commit))
        rows = datasets.load_dataset(repo, name, split=split, revision=commit, streaming=True)
        count = 0
        with Path(request["target"]).open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"dataset {repo}: {error}") from error
    return {"rows": count, "split": split}


def _split(repo: str, wanted: str | None, present: list[str]) -> str:
    if wanted is not None and wanted not in present:
        raise DataError(f"dataset.split={wanted}: {repo} has {', '.join(present)}")
    candidates = [wanted] if wanted else [name for name in _TRAIN_SPLITS if name in present] or present[:1]
    if not wanted and len(present) > 1 and candidates[0] not in _TRAIN_SPLITS:
        raise DataError(
            f"dataset {repo} has no train split but {', '.join(present)}", fix=f"dataset.split={present[0]}"
        )
    if not candidates or candidates[0] is None:
        raise SftError(f"dataset {repo} has no split")
    return candidates[0]


if __name__ == "__main__":
    child.main(_write_rows)
