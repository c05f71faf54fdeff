"""The model stage: a base model that is ready to load, checked before anything expensive depends on it.

A model from the hub or a local folder stays where it is; its files' sha256 become the artifact. A model from
scratch is made here. The stage reads files only: nothing of the model is executed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters import hub, storage
from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, ModelArtifact
from sft.config.schema import ModelConfig, ModelSource
from sft.errors import ConfigError, Problem, StageError
from sft.files import sha256_file, write_json
from sft.progress import Progress
from sft.stages import chat_template

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
_WEIGHTS = "model.safetensors"
FILES_NAME = "files.json"


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What the model stage takes: the dataset where a tokenizer is to be trained."""

    dataset: DatasetArtifact | None


def source_version(cfg: ModelConfig) -> str:
    """What changes when the model may have changed: the hub's commit, or the times of a folder's files.

    Raises:
        ConfigError: `model.revision` is set for a folder, which has none.
        SftError: The model is not there or can't be reached.
    """
    if cfg.source is ModelSource.scratch:
        return chat_template.file_version(cfg)
    if folder := _local_folder(cfg):
        if cfg.revision is not None:
            rule = f"is for a model on the hub, and {folder} is a folder"
            raise ConfigError([Problem(key="model.revision", value=cfg.revision, rule=rule, suggestion="try null")])
        version = ";".join(f"{f.relative_to(folder)}={storage.stat_version(f)}" for f in _files(folder))
    else:
        version = hub.commit_of(cfg.name_or_path, cfg.revision, kind="model")
    return f"{version};{chat_template.file_version(cfg)}" if cfg.chat_template else version


def download(cfg: ModelConfig) -> str | None:
    """What will be downloaded, in words; None where nothing is."""
    return None if cfg.source is ModelSource.scratch or _local_folder(cfg) else f"model {cfg.name_or_path}"


def model(cfg: ModelConfig, inputs: ModelInputs, out: Path, progress: Progress) -> ModelArtifact:
    """Makes or finds the base model and checks that it can be fine-tuned on chat data.

    Args:
        cfg: The model settings.
        inputs: The dataset, whose training split trains the tokenizer of a model from scratch.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        StageError: A file is missing: config, tokenizer, chat template, safetensors weights.
    """
    if cfg.source is ModelSource.scratch:
        if inputs.dataset is None:
            raise TypeError("a model from nothing needs the dataset, for its tokenizer")
        return _scratch(cfg, inputs.dataset, out, progress)
    folder, revision = _local_folder(cfg), ""
    if folder is None:
        progress.update(f"fetching {cfg.name_or_path}")
        folder = hub.fetch_model(cfg.name_or_path, cfg.revision)
        revision = folder.name
    _check(folder, cfg)
    template = chat_template.choose(folder, cfg)
    progress.update("hashing files")
    if template:
        chat_template.folder_with(template, folder, out)
        _say_changes(template, progress)
    else:
        write_json(out / FILES_NAME, {f.relative_to(folder).as_posix(): sha256_file(f) for f in _files(folder)})
    artifact = ModelArtifact(
        root=out,
        source=cfg.name_or_path if revision else str(folder),
        revision=revision,
        external_dir=None if template else folder,
        num_parameters=_num_parameters(folder),
        trust_remote_code=cfg.trust_remote_code,
        chat_template_changes=template.changes if template else (),
    )
    progress.say(f"  {artifact.source}: {_millions(artifact.num_parameters)} parameters")
    return artifact


def _scratch(cfg: ModelConfig, data: DatasetArtifact, out: Path, progress: Progress) -> ModelArtifact:
    request: dict[str, Any] = {"train_file": str(data.train_file), "target": str(out)}
    request["shape"] = dataclasses.asdict(cfg.scratch)
    made = run_module("sft.adapters.random_model", request, folder=out / LOGS_NAME / "scratch", what="making the model")
    progress.say(f"  {_millions(made['num_parameters'])} random weights, vocabulary of {made['vocab_size']}")
    if template := chat_template.choose(out, cfg):
        chat_template.folder_with(template, out, out)
        _say_changes(template, progress)
    return ModelArtifact(
        root=out,
        source="scratch",
        revision="",
        external_dir=None,
        num_parameters=made["num_parameters"],
        chat_template_changes=template.changes if template else (),
    )


def _say_changes(template: chat_template.ChosenTemplate, progress: Progress) -> None:
    for change in template.changes:
        progress.say(f"  chat template: {change}")


def _millions(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.2f}M"


def _local_folder(cfg: ModelConfig) -> Path | None:
    """The folder that `model.name_or_path` names; None where it is a hub id."""
    folder = Path(cfg.name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    is_path = cfg.name_or_path.startswith((".", "/", "~")) or cfg.name_or_path.count("/") > 1
    if is_path or hub.parse(cfg.name_or_path) is None:
        raise StageError(
            f"model.name_or_path={cfg.name_or_path}: no such folder", fix="a folder, or a hub id: org/name"
        )
    return None


def _files(folder: Path) -> list[Path]:
    """A model folder's own files; hidden ones (a repository's, a cache's) are not part of the model."""
    return [f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith(".")]


def _check(folder: Path, cfg: ModelConfig) -> None:
    what = f"model.name_or_path={cfg.name_or_path}"
    if not (folder / "config.json").is_file():
        raise StageError(f"{what}: no config.json in {folder}", fix="give a folder in Hugging Face layout")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        fix = "copy the base model's tokenizer files (tokenizer.json, tokenizer_config.json) into the folder"
        raise StageError(f"{what}: no tokenizer in {folder} (none of {', '.join(_TOKENIZER_FILES)})", fix=fix)
    if cfg.chat_template is None and not chat_template.named_templates(folder):
        fix = "use the instruct variant, or give it one: model.chat_template=FILE"
        raise StageError(f"{what}: its tokenizer has no chat template, so conversations can't be rendered", fix=fix)
    _check_weights(folder, what)


def _check_weights(folder: Path, what: str) -> None:
    """Refuses what transformers would pass over for pickled weights, which can run code.

    It looks for these two names, and for no other ``*.safetensors``, before it takes ``pytorch_model.bin``.
    """
    index = folder / f"{_WEIGHTS}.index.json"
    if (folder / _WEIGHTS).is_file():
        return
    if not index.is_file():
        raise StageError(
            f"{what}: no {_WEIGHTS} nor {index.name} in {folder}; pickled weights are not loaded, they can run code",
            fix="convert them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
        )
    for shard in sorted(set(_read_json(index).get("weight_map", {}).values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise StageError(f"{index}: names {shard}, which is no safetensors file beside it", fix="fetch it again")
        if not (folder / shard).is_file():
            raise StageError(f"{what}: {shard} is not there, which {index.name} names", fix="fetch it again")


def _num_parameters(folder: Path) -> int:
    """Elements of all tensors in a model folder, from the safetensors headers alone.

    Raises:
        StageError: A file is cut short, or no safetensors.
    """
    count = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(min(size, 100 << 20)))
            except ValueError as error:
                raise StageError(f"{file}: not a safetensors file, or cut short", fix="fetch it again") from error
        tensors = (facts for name, facts in header.items() if name != "__metadata__")
        count += sum(math.prod(facts["shape"]) for facts in tensors)
    return count


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: not valid JSON: {error}") from error
    return content
