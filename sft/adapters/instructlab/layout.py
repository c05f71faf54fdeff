"""Names of the files by which the ranks of a training and the process that watches them talk to each other.

Both sides import them from here, so that the parent needs nothing of what runs inside a rank.
"""

from __future__ import annotations

SETTINGS = "settings.json"
"""What a rank is to do."""
METRICS, RESUMED, STOP, STOPPED, FINISHED = "metrics.jsonl", "resumed.json", "stop", "stopped.json", "finished.json"
UNTRACKED = "untracked.json"
"""Trackers that could not be reached."""
ERRORS, STACKS = "errors", "stacks"
"""Folders with a file per rank: its error, its Python stack when it makes no step."""
MODELS, STATES = "hf_format", "full_state"
"""Folders of what the ranks save. The first is the library's name (utils.py:700@0.16.2)."""
ADAPTER = "adapter"
"""Folder of a LoRA adapter, beside the merged model's files."""
