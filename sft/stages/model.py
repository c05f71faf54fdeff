"""The model stage: a base model that is ready to load, checked before anything expensive depends on it.

A model from the hub, from a registry of images (``oci://``) or a local folder stays where it is; its files' sha256
become the artifact. A model from scratch is made here. Nothing of the model is executed unless
`model.trust_remote_code` lets it.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters import adapter_files, base_model, hub, local_files
from sft.adapters.checkpoint_files import CONFIG, files_of, listed, read_json, read_tensors
from sft.adapters.os.process import run_module
from sft.artifacts import ADAPTER_NAME, LOGS_NAME, DatasetArtifact, ModelArtifact
from sft.config.schema import AdapterUse, ModelConfig, ModelSource
from sft.errors import ConfigError, Problem, StageError
from sft.files import sha256_file, write_json
from sft.progress import Progress
from sft.stages import chat_template, merge, model_checks

FILES_NAME = "files.json"
_RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What the model stage takes: the dataset if a tokenizer is to be trained."""

    dataset: DatasetArtifact | None


def source_version(cfg: ModelConfig) -> str:
    """Return what changes when the model may have changed: the hub's commit, or the times of a folder's files.

    Raises:
        ConfigError: `model.revision` is set for a folder, which has none.
        SftError: The model is not there, can't be reached, or is of an architecture that can't be trained.
    """
    if cfg.source is ModelSource.scratch:
        return chat_template.file_version(cfg)
    folder = _local_folder(cfg)
    is_image = base_model.is_oci(cfg.name_or_path)
    if (folder or is_image) and cfg.revision is not None:
        what = f"{cfg.name_or_path} says it itself" if is_image else f"{folder} is a folder"
        rule = f"is for a model on the hub, and {what}"
        raise ConfigError([Problem(key="model.revision", value=cfg.revision, rule=rule, suggestion="try null")])
    _check_config(folder or base_model.cached(cfg.name_or_path, cfg.revision), cfg)
    if folder:
        version = ";".join(f"{f.relative_to(folder)}={local_files.stat_version(f)}" for f in files_of(folder))
    else:
        version = base_model.version(cfg.name_or_path, cfg.revision)
    if adapter := _adapter(cfg):
        files = (adapter.folder / name for name in (adapter_files.CONFIG, adapter_files.WEIGHTS))
        version += "".join(f";{file.name}={local_files.stat_version(file)}" for file in files)
    return f"{version};{chat_template.file_version(cfg)}" if cfg.chat_template else version


def _adapter(cfg: ModelConfig) -> adapter_files.AdapterFiles | None:
    """Return the adapter that is merged or continued; None = there is none.

    Raises:
        StageError: It can't be, or is of another model.
    """
    if cfg.adapter is None:
        return None
    what = f"model.adapter={cfg.adapter}"
    found = merge.find(local_files.local_path(cfg.adapter), what)
    adapter_files.check_base(found, cfg.name_or_path, what)
    folder = _local_folder(cfg) or base_model.cached(cfg.name_or_path, cfg.revision)
    if model_checks.has_weights(folder):
        adapter_files.check_shapes(found, read_tensors(folder), what)
    return found


def _check_config(folder: Path, cfg: ModelConfig) -> None:
    """Refuse in `sft plan` what the stage would refuse, if the config is at hand."""
    if (folder / CONFIG).is_file():
        model_checks.check_config(read_json(folder / CONFIG), _setting(cfg))


def check_source(cfg: ModelConfig) -> None:
    """Refuse before the first download what the stage would refuse after that of the weights.

    Of a model on the hub its config, its chat template and the names of its files are looked at; of a folder all is.

    Raises:
        SftError: It is not there, can't be trained, or has no chat template.
    """
    if cfg.source is ModelSource.scratch or base_model.is_oci(cfg.name_or_path):
        return
    folder = _local_folder(cfg)
    if folder and not (folder / CONFIG).is_file():
        return  # no model at all, which the stage says: there is nothing to download of it
    cached = folder or base_model.cached(cfg.name_or_path, cfg.revision)
    if folder or model_checks.has_weights(cached):
        model_checks.check_folder(cached, _setting(cfg))
    else:
        cached, names = hub.fetch_facts(cfg.name_or_path, cfg.revision)
        model_checks.check_names(names, _setting(cfg))
        _check_config(cached, cfg)
    chat_template.choose(cached, cfg)


def _setting(cfg: ModelConfig) -> str:
    return f"model.name_or_path={cfg.name_or_path}"


def download(cfg: ModelConfig) -> str | None:
    """Return what will be downloaded, in words; None if nothing is."""
    return None if cfg.source is ModelSource.scratch or _local_folder(cfg) else f"model {cfg.name_or_path}"


def model(cfg: ModelConfig, inputs: ModelInputs, out: Path, progress: Progress) -> ModelArtifact:
    """Make or find the base model and check that it can be fine-tuned on chat data.

    Args:
        cfg: The model settings.
        inputs: The dataset, whose training split trains the tokenizer of a model from scratch.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        StageError: A file is missing (config, tokenizer, chat template, safetensors weights), or the weights are not
            those of the architecture.
    """
    if cfg.source is ModelSource.scratch:
        if inputs.dataset is None:
            raise TypeError("a model from scratch needs the dataset, for its tokenizer")
        return _scratch(cfg, inputs.dataset, out, progress)
    folder, revision = _local_folder(cfg), ""
    if folder is None:
        progress.update(f"fetching {cfg.name_or_path}")
        folder, revision = base_model.fetch(cfg.name_or_path, cfg.revision, progress.update)
    model_checks.check_folder(folder, _setting(cfg))
    template = chat_template.choose(folder, cfg)
    progress.update("comparing the weights with the architecture")
    unread_weights = _check_architecture(cfg, folder, out)
    if unread_weights:
        progress.say(f"  {unread_weights}")
    for note in filter(None, [model_checks.dtype_note(folder), model_checks.stops_note(folder)]):
        progress.say(f"  {note}")
    progress.update("hashing files")
    write_json(out / FILES_NAME, {f.relative_to(folder).as_posix(): sha256_file(f) for f in files_of(folder)})
    source = cfg.name_or_path.partition("@")[0] if revision else str(folder)
    extended = out if cfg.add_tokens.special or cfg.add_tokens.plain else None
    if extended:
        _extend(cfg, folder, out, progress)
    digests: dict[str, str] = {}
    adapter, is_continued = _adapter(cfg), cfg.adapter_use is AdapterUse.continued
    if adapter:
        extended = out
        files = _copied(adapter, out / ADAPTER_NAME) if is_continued else adapter
        _merge(cfg, folder, revision, files, out, progress)
        digests = {str(adapter.folder / name): digest for name, digest in files.digests().items()}
    if template:
        chat_template.folder_with(template, extended or folder, out)
        _say_changes(template, progress)
    artifact = ModelArtifact(
        root=out,
        source=source,
        revision=revision,
        external_dir=None if extended or template else folder,
        num_parameters=sum(tensor.size for tensor in read_tensors(extended or folder).values()),
        trust_remote_code=cfg.trust_remote_code,
        chat_template_changes=template.changes if template else (),
        unread_weights=unread_weights,
        adapter=digests,
        unmerged_dir=folder if adapter and is_continued else None,
        trains_other_weights=bool(extended) and not is_continued,
    )
    progress.say(f"  {artifact.source}: {_millions(artifact.num_parameters)} parameters")
    return artifact


def _check_architecture(cfg: ModelConfig, folder: Path, out: Path) -> str:
    """Return a line on the stored weights that the architecture has no place for; empty = there are none."""
    request = {"folder": str(folder), "trust_remote_code": cfg.trust_remote_code}
    logs, module = out / LOGS_NAME / "architecture", "sft.adapters.architecture"
    found = run_module(module, request, folder=logs, what="checking the model")
    if without_row := set(found["without_row"]) - {*cfg.add_tokens.special, *cfg.add_tokens.plain}:
        raise StageError(
            f"{_setting(cfg)}: its tokenizer has {found['num_tokens']} tokens, but its embedding has "
            f"{found['num_rows']} rows; without one are {listed(sorted(without_row))}",
            fix="name them in model.add_tokens.special or model.add_tokens.plain, or take these weights' own tokenizer",
        )
    unread: str = found["unread"]
    return unread


def _extend(cfg: ModelConfig, folder: Path, out: Path, progress: Progress) -> None:
    progress.update("adding tokens")
    request = {
        "folder": str(folder),
        "target": str(out),
        "special": cfg.add_tokens.special,
        "plain": cfg.add_tokens.plain,
        "trust_remote_code": cfg.trust_remote_code,
    }
    logs = out / LOGS_NAME / "vocabulary"
    counts = run_module("sft.adapters.vocabulary", request, folder=logs, what="adding tokens to the model")
    tokens = f"{counts['num_added']} new tokens, {counts['num_tokens']} in all"
    progress.say(f"  {tokens}; the embedding has {counts['num_rows']} rows")


def _copied(adapter: adapter_files.AdapterFiles, target: Path) -> adapter_files.AdapterFiles:
    """Copy an adapter into the artifact, whose digest then covers it and which every rank sees."""
    target.mkdir()
    for name in (adapter_files.CONFIG, adapter_files.WEIGHTS):
        shutil.copyfile(adapter.folder / name, target / name)
    return adapter_files.read(target, f"{adapter.folder}")


def _merge(
    cfg: ModelConfig, folder: Path, revision: str, adapter: adapter_files.AdapterFiles, out: Path, progress: Progress
) -> None:
    progress.update("merging the adapter")
    base = merge.Base(name=cfg.name_or_path, revision="", folder=folder, trust_remote_code=cfg.trust_remote_code)
    what = f"model.adapter={cfg.adapter}"
    for note in adapter_files.check_base(adapter, cfg.name_or_path, what, revision=revision):
        progress.say(f"  {note}")
    merge.into(base, [merge.Weighted(files=adapter)], out, logs=out / LOGS_NAME / "adapter")
    is_continued = cfg.adapter_use is AdapterUse.continued
    use = "continued, and merged into it to compare with" if is_continued else "merged into it"
    progress.say(f"  {use}: {cfg.adapter}")


def _scratch(cfg: ModelConfig, data: DatasetArtifact, out: Path, progress: Progress) -> ModelArtifact:
    request: dict[str, Any] = {"train_file": str(data.train_file), "target": str(out)}
    request["shape"] = dataclasses.asdict(cfg.scratch)
    counts = run_module(
        "sft.adapters.random_model", request, folder=out / LOGS_NAME / "scratch", what="making the model"
    )
    progress.say(f"  {_millions(counts['num_parameters'])} random weights, vocabulary of {counts['vocab_size']}")
    if template := chat_template.choose(out, cfg):
        chat_template.folder_with(template, out, out)
        _say_changes(template, progress)
    return ModelArtifact(
        root=out,
        source="scratch",
        revision="",
        external_dir=None,
        num_parameters=counts["num_parameters"],
        chat_template_changes=template.changes if template else (),
    )


def _say_changes(template: chat_template.ChosenTemplate, progress: Progress) -> None:
    for change in template.changes:
        progress.say(f"  chat template: {change}")


def _millions(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.2f}M"


def _local_folder(cfg: ModelConfig) -> Path | None:
    """Return the folder that `model.name_or_path` names; None if it is a hub id, or in a registry of images."""
    folder = local_files.local_path(cfg.name_or_path)
    if folder.is_dir():
        if (folder / _RECORD).is_file() and not (folder / CONFIG).is_file():
            fix = f"model.name_or_path={folder / 'model'}, which `sft run` links to the model that this run has made"
            raise StageError(f"model.name_or_path={cfg.name_or_path}: is a run's folder, not a model's", fix=fix)
        return folder.resolve()
    if base_model.is_oci(cfg.name_or_path):
        return None
    if cfg.name_or_path.startswith("pvc://"):
        raise StageError(
            f"model.name_or_path={cfg.name_or_path}: no folder {folder}",
            fix="mount the claim at /<claim>, or name the model by its path where the volume is mounted",
        )
    is_path = cfg.name_or_path.startswith((".", "/", "~")) or cfg.name_or_path.count("/") > 1
    if is_path or hub.parse(cfg.name_or_path) is None:
        raise StageError(
            f"model.name_or_path={cfg.name_or_path}: no such folder",
            fix="a folder, a hub id (org/name), or oci://host/repository:tag",
        )
    return None
