"""One YAML recipe in; one fine-tuned, evaluated, registered language model out."""

__version__ = "0.1.0"
