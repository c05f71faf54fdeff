"""Owns the file formats that a model is exported to: GGUF, and Ollama's Modelfile.

What reads weights runs in a child process. Does not own which run is exported, nor how an export is scored
(`sft.runner.export_model`).
"""

from __future__ import annotations
