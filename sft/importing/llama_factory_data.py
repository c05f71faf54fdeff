"""LLaMA-Factory's names of datasets, which stand in a `dataset_info.json` of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.config import strict_yaml
from sft.files import read_document
from sft.importing import data_readers, reading
from sft.importing.rows import Found, Source, is_off, missing, other, taken

_INFO = "dataset_info.json"
_TAGS = {
    "role_tag": ("from", "role"),
    "content_tag": ("value", "content"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
"""How a conversation may be spelled so that it is read here."""


def names(value: Any, source: Source) -> Found:
    """Read the datasets' names, and what `dataset_info.json` beside the file or in `dataset_dir` says of them."""
    return _named(value, source, "dataset.", "dataset.sources.")


def tests(value: Any, source: Source) -> Found:
    """Read the names of sets that are evaluated and not trained."""
    if source.get("stage") == "pt":
        return missing("raw text that is held out is not scored; training.validation_split gives a loss on the way")
    found = _named(value, source, "eval.holdouts.test.", "eval.holdouts.")
    if not found.settings:
        return found
    strategy = source.get("eval_strategy") or source.get("evaluation_strategy")
    validated = data_readers.on_the_way(found, are_validated=not is_off(strategy))
    return replace(validated, note=f"{found.note}; {validated.note}")


def _named(value: Any, source: Source, alone: str, several: str) -> Found:
    wanted = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(wanted, list) or not wanted or not all(isinstance(one, str) and one for one in wanted):
        return missing("dataset.uri, or dataset.sources for several")
    folder = _folder(source)
    info = _info(folder)
    settings: dict[str, Any] = {}
    notes = []
    taken_names: set[str] = set()
    for name in wanted:
        own = re.sub(r"[^a-z0-9_]", "_", name.lower())[:60]
        own = own if re.match("[a-z]", own) else f"d_{own}"
        while own in taken_names:
            own += "_"
        taken_names.add(own)
        prefix = alone if len(wanted) == 1 else f"{several}{own}."
        entry = {"hf_hub_url": name} if source.get("dataset_dir") == "ONLINE" else info.get(name)
        found, said = _entry(entry, name, folder, prefix, is_raw=source.get("stage") == "pt")
        settings |= found
        notes.append(f"{name} of the hub" if source.get("dataset_dir") == "ONLINE" else said)
    return other(settings, "; ".join(notes))


def _folder(source: Source) -> Path:
    said = source.get("dataset_dir")
    folder = Path(said) if isinstance(said, str) and "\0" not in said else Path("data")
    places = [folder, source.folder / folder, source.folder]
    return next((place for place in places if (place / _INFO).is_file()), folder)


def _info(folder: Path) -> dict[str, Any]:
    file = folder / _INFO
    if not file.is_file():
        return {}
    try:
        content = reading.json_of(read_document(file, strict_yaml.LARGEST_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return content if isinstance(content, dict) else {}


def _entry(entry: Any, name: str, folder: Path, prefix: str, *, is_raw: bool) -> tuple[dict[str, Any], str]:
    uri = f"{prefix}uri"
    if not isinstance(entry, dict):
        raw = {f"{prefix}format": "text"} if is_raw else {}
        return {uri: "???", **raw}, f"{name} is a name in {_INFO}, which is not there: fill in {uri}"
    where = entry.get("hf_hub_url") or entry.get("file_name")
    if not isinstance(where, str):
        return {uri: "???"}, f"{name} is neither a file nor a dataset of the hub: fill in {uri}"
    if "hf_hub_url" in entry:
        place: Any = data_readers.data_uri(where, entry.get("subset"), entry.get("revision"))
    else:
        place = where if "://" in where else str(folder / where)
    settings: dict[str, Any] = {uri: place}
    if isinstance(entry.get("split"), str):
        settings[f"{prefix}split"] = entry["split"]
    if entry.get("num_samples"):
        settings[f"{prefix}max_samples"] = entry["num_samples"]
    columns = _mapping(entry.get("columns"))
    left = sorted(
        set(entry)
        - {"hf_hub_url", "ms_hub_url", "file_name", "split", "subset", "num_samples", "formatting", "columns", "tags"}
        - ({"revision"} if "hf_hub_url" in entry else set())
    )
    if is_raw:
        settings[f"{prefix}format"] = "text"
        sharegpt = entry.get("formatting") == "sharegpt"
        settings[f"{prefix}columns.text"] = columns.pop("messages" if sharegpt else "prompt", "instruction")
        left += ["formatting"] if sharegpt else []
    elif (formatting := entry.get("formatting")) in ("sharegpt", "openai"):
        tags = _mapping(entry.get("tags"))
        default = {"role_tag": "role", "content_tag": "content"} if formatting == "openai" else {}
        openai = {**default, **tags}.items() >= {"role_tag": "role", "content_tag": "content"}.items()
        settings[f"{prefix}format"] = "messages" if openai else "conversations"
        left += [f"tags.{tag}" for tag, said in sorted(tags.items()) if said not in _TAGS.get(tag, (said,))]
        column = columns.pop("messages", "conversations")
        if column != ("messages" if openai else "conversations"):
            settings[f"{prefix}columns.messages"] = column
    elif formatting not in (None, "alpaca"):
        left.append("formatting")
    else:
        plain = {"prompt": "instruction", "query": "input", "response": "output"}
        if not columns or all(columns.get(key) == own for key, own in plain.items()):
            settings[f"{prefix}format"] = "alpaca"
        elif isinstance(columns.get("prompt"), str) and isinstance(columns.get("response"), str):
            settings[f"{prefix}format"] = "prompt_completion"
            settings[f"{prefix}columns.prompt"] = columns["prompt"]
            settings[f"{prefix}columns.completion"] = columns["response"]
            left += [f"columns.{key}" for key in sorted({*columns} & {"query", "history"})]
        for key in plain:
            columns.pop(key, None)
    left += [f"columns.{key}" for key in sorted(columns)]
    note = f"{name} by {_INFO}" + (f", but for {', '.join(left)}" if left else "")
    return settings, note


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def parts(value: Any, source: Source) -> Found:
    """Read the shares of the datasets, which have the order of their names."""
    texts = value.split(",") if isinstance(value, str) else []
    asked = source.get("dataset")
    wanted = [part.strip() for part in asked.split(",")] if isinstance(asked, str) else []
    try:
        weights = [float(text) for text in texts]
    except ValueError:
        return missing("dataset.sources.NAME.weight")
    if len(weights) != len(wanted) or len(wanted) < 2:
        return missing("dataset.sources.NAME.weight, one for each dataset")
    own = list(
        dict.fromkeys(key.split(".")[2] for key in names(asked, source).settings if key.startswith("dataset.sources."))
    )
    return taken({f"dataset.sources.{name}.weight": weight for name, weight in zip(own, weights, strict=True)})
