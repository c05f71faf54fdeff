"""One YAML recipe in; one fine-tuned, evaluated, registered language model out."""

__version__ = "0.1.0"
DISTRIBUTION = "sft-runner"
"""Name on the package index, where `sft` is another project's."""
