"""Owns what an adapter's folder says of itself: PEFT's ``adapter_config.json`` beside safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.checkpoint_files import Tensor, read_header, read_json
from sft.errors import StageError
from sft.files import sha256_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UNKNOWN_BASE = "scratch"
"""The base that an adapter names whose model was made by its run."""
_TAKES_PART = ("use_dora", "modules_to_save", "lora_bias")
"""What makes an adapter more than a sum of products, of which there is no weighted sum."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of what `init_lora_weights` says of an adapter that belongs to a base changed at its start."""
_PREFIX = "base_model.model."
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.weight)?$")
_OTHER = ("layer_replication", "megatron_config", "alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config")


@dataclass(frozen=True, kw_only=True)
class AdapterFiles:
    """A LoRA adapter on a disk.

    Attributes:
        folder: With both files.
        config: Its settings, as PEFT wrote them.
    """

    folder: Path
    config: dict[str, Any]

    @property
    def base(self) -> str:
        """Name of the model that it is of."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def revision(self) -> str:
        """Commit of that model on the hub; empty if it isn't said, or is a branch."""
        revision = str(self.config.get("revision") or "")
        return revision if _COMMIT.fullmatch(revision) else ""

    @property
    def more_than_products(self) -> list[str]:
        """Settings and tensors of it that change more than a sum of B A can, or the other way than one."""
        tensors = sorted(name for name in read_header(self.folder / WEIGHTS) if not _FACTOR.search(name))
        return [name for name in _TAKES_PART if self.config.get(name)] + tensors

    def digests(self) -> dict[str, str]:
        """Return the sha256 of its files by name."""
        return {name: sha256_file(self.folder / name) for name in (CONFIG, WEIGHTS)}


def read(folder: Path, what: str) -> AdapterFiles:
    """Return the adapter in a folder.

    Args:
        folder: Of PEFT's, or a run's ``adapter``.
        what: The setting or argument that names it, for messages.

    Raises:
        StageError: There is none, it is of another kind than LoRA, or its files are malformed.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            fix = "give a folder with both, such as runs/NAME/adapter; PEFT saves safetensors by default"
            raise StageError(f"{what}: no {name} in {folder}", fix=fix)
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise StageError(f"{what}: is an adapter of the kind {config.get('peft_type')}", fix="give a LoRA adapter")
    if others := [name for name in _OTHER if config.get(name)]:
        raise StageError(f"{what}: has {others[0]}, which is more than can be merged here", fix="merge it with PEFT")
    begins = config.get("init_lora_weights")
    if isinstance(begins, str) and begins.lower().startswith(_CHANGES_BASE):
        raise StageError(
            f"{what}: began with init_lora_weights={begins}, which changes the base: it is no adapter of that itself",
            fix="let PEFT convert it: save_pretrained(FOLDER, path_initial_model_for_weight_conversion=START)",
        )
    read_header(folder / WEIGHTS)
    return AdapterFiles(folder=folder, config=config)


def check_base(adapter: AdapterFiles, base: str, what: str, *, revision: str = "") -> list[str]:
    """Compare the model that an adapter names with a base model, and return notes on what stays unknown.

    Args:
        adapter: Which.
        base: Hub id, or folder, of the model.
        what: The setting or argument that names the adapter.
        revision: Commit of the base model on the hub; empty if it isn't known or there is none.

    Raises:
        StageError: It is of another model.
    """
    if adapter.base in ("", UNKNOWN_BASE):
        return [f"{what} does not say which model it is of; its names and shapes are compared alone"]
    if adapter.base == base.partition("@")[0] or _same_folder(adapter.base, base):
        if revision and adapter.revision and adapter.revision != revision:
            return [f"{what} is of the revision {adapter.revision} of {adapter.base}, and this is {revision}"]
        return []
    raise StageError(
        f"{what}: is an adapter of {adapter.base}, not of {base}",
        fix=f"take {adapter.base} as the model; if that is the same one, say so in base_model_name_or_path of {CONFIG}",
    )


def check_shapes(adapter: AdapterFiles, base: Mapping[str, Tensor], what: str) -> None:
    """Compare an adapter's matrices with the weights that they are of, as far as both have the same names.

    Args:
        adapter: Which.
        base: Tensors of the model's files by name. A name that they lack may be one that loading makes of others.
        what: The setting or argument that names the adapter.

    Raises:
        StageError: One is of a weight of another shape.
    """
    tensors = read_header(adapter.folder / WEIGHTS)
    for name, first in sorted(tensors.items()):
        of, is_first, _ = name.removeprefix(_PREFIX).partition(".lora_A.weight")
        second, weight = tensors.get(f"{_PREFIX}{of}.lora_B.weight"), base.get(f"{of}.weight")
        if not is_first or second is None or weight is None or len(weight.shape) != 2:
            continue
        shapes = (second.shape[0], first.shape[-1])
        if sorted(shapes) != sorted(weight.shape):  # GPT-2's lie the other way round
            its, the_models = (" x ".join(map(str, each)) for each in (shapes, weight.shape))
            raise StageError(
                f"{what}: is of a weight {of} of {its}, but the model's has {the_models}",
                fix="take the model that the adapter was trained on",
            )


def _same_folder(one: str, other: str) -> bool:
    paths = [Path(name).expanduser() for name in (one, other)]
    return all(path.is_dir() for path in paths) and paths[0].samefile(paths[1])
