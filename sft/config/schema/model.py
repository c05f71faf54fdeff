"""Settings of the `model` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sft.config.schema.bounds import LARGEST_INT32, each, number, random_seed, setting, tree
from sft.config.schema.texts import FREE, LINE, PATH


class ModelSource(Enum):
    """Where the weights come from."""

    pretrained = "pretrained"
    scratch = "scratch"


class AdapterUse(Enum):
    """What becomes of `model.adapter`."""

    merged = "merged"
    continued = "continued"


@dataclass(kw_only=True)
class ScratchConfig:
    """Shape of a Qwen2-architecture model with random weights, and of the tokenizer trained for it."""

    hidden_size: int = number(64, at_least=1, at_most=2**17)
    intermediate_size: int = number(256, at_least=1, at_most=2**20)
    num_hidden_layers: int = number(3, at_least=1, at_most=1_024)
    num_attention_heads: int = number(4, at_least=1, at_most=1_024)
    num_key_value_heads: int = number(2, at_least=1, at_most=1_024)
    max_position_embeddings: int = number(2048, at_least=1, at_most=LARGEST_INT32)
    vocab_size: int = number(2048, at_least=300, at_most=2**24)
    """Largest vocabulary of the byte-level BPE tokenizer trained on the training split, special tokens
    included; at least 300 (256 bytes and the special tokens)."""
    initializer_range: float = number(0.05, above=0, at_most=10)
    seed: int = random_seed(0)
    """Seed of the random weights."""


@dataclass(kw_only=True)
class AddTokensConfig:
    """Tokens that the base model's tokenizer gets; their embeddings start as the mean of the others."""

    special: list[str] = each(FREE)
    """Tokens with a meaning of their own (`<|tool_call|>`): never split, and left out of a text that is shown."""
    plain: list[str] = each(FREE)
    """Words that would take many tokens otherwise."""


@dataclass(kw_only=True)
class ModelConfig:
    """The model to fine-tune."""

    source: ModelSource = ModelSource.pretrained
    name_or_path: str = setting("Qwen/Qwen2.5-1.5B-Instruct", PATH)
    """Hub id, local folder, `pvc://claim/path` on a volume that is mounted at `/claim`, or `oci://host/repository:tag`
    (or `@sha256:…`): an image with the model under `/models`, or an artifact with a layer for each file
    (`source=pretrained`). transformers: `pretrained_model_name_or_path`."""
    revision: str | None = setting(None, LINE)
    """Branch, tag or commit on the hub; null = the default branch."""
    adapter: str | None = setting(None, PATH)
    """Folder of a LoRA adapter of this model, or of the run that made it; null = none. The tuned model is compared with
    this model and the adapter."""
    adapter_use: AdapterUse = AdapterUse.merged
    """`merged` = the adapter is merged into the weights, and the merged model is trained. `continued` = its matrices
    are trained on, the model itself stays as it is, and the result is another adapter of it; what `training.lora`
    leaves at its defaults is then the adapter's own."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run. Recorded when true."""
    chat_template: str | None = setting(None, PATH)
    """File with a Jinja chat template that the model gets in the place of its own, or as its first one. It is kept with
    the tuned model; null = the model's own. Relative paths start where the command is run."""
    chat_template_name: str | None = setting(None, LINE)
    """Which of the model's own templates, where it has several by name; null = the one named `default`."""
    chat_template_kwargs: dict[str, Any] = tree()
    """Values of the template's variables (`enable_thinking: false`), in training, scoring and in the tuned model."""
    chat_template_date: str = setting("2024-07-26", LINE)
    """The date, `YYYY-MM-DD`, that a template gets which reads the clock (`strftime_now`): training, scoring and the
    tuned model see the same one, whenever they run. The default is the date that Llama 3's templates fall back on."""
    add_tokens: AddTokensConfig = field(default_factory=AddTokensConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
