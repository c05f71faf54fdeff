"""Settings of the `model` group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class ModelSource(Enum):
    """Where the weights come from."""

    pretrained = "pretrained"
    scratch = "scratch"


@dataclass(kw_only=True)
class ScratchConfig:
    """Shape of a Qwen2-architecture model with random weights, and of the tokenizer trained for it."""

    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 2048
    vocab_size: int = 2048
    """Largest vocabulary of the byte-level BPE tokenizer trained on the training split, special tokens
    included; at least 300 (256 bytes and the special tokens)."""
    initializer_range: float = 0.05
    seed: int = 0
    """Seed of the random weights."""


@dataclass(kw_only=True)
class AddTokensConfig:
    """Tokens that the base model's tokenizer gets; their embeddings start as the mean of the others."""

    special: list[str] = field(default_factory=list)
    """Tokens with a meaning of their own (`<|tool_call|>`): never split, and left out of a text that is shown."""
    plain: list[str] = field(default_factory=list)
    """Words that would take many tokens otherwise."""


@dataclass(kw_only=True)
class ModelConfig:
    """The model to fine-tune."""

    source: ModelSource = ModelSource.pretrained
    name_or_path: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Hub id or local folder (`source=pretrained`). transformers: `pretrained_model_name_or_path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null = the default branch."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run. Recorded when true."""
    add_tokens: AddTokensConfig = field(default_factory=AddTokensConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
