"""Owns the names of the files through which the ranks of a training and their parent process communicate.

Both sides import them from here, so that the parent imports nothing that runs inside a rank.
"""

from __future__ import annotations

SETTINGS = "settings.json"
"""Settings of the ranks."""
METRICS, RESUMED, STOP, STOPPED, FINISHED = "metrics.jsonl", "resumed.json", "stop", "stopped.json", "finished.json"
VALIDATION_LOSS = "validation_loss"
"""Field of a step's row in the first; of a held-out set or a source by its name, ``validation_loss.NAME``."""
RESUMES = "resumes.jsonl"
"""The step after which each continuation of the training began, a row for each."""
PROFILE = "profile.json.gz"
"""Trace of some steps of rank 0, in Chrome's format."""
COMPILED = "compiled.json"
"""What was compiled, if layers are."""
UNTRACKED = "untracked.json"
"""Trackers that could not be reached."""
ERRORS, STACKS = "errors", "stacks"
"""Folders with a file per rank: its error, and its Python stack if it makes no step for too long."""
MODELS, STATES = "hf_format", "full_state"
"""Folders in which the ranks save models and full states. The first is the library's name (utils.py:700@0.16.2)."""
CHOSEN = "chosen"
"""Folder of the model of a step that was chosen, if that is not the last one; it holds `MODELS` in its turn."""
STATE_PREFIX, STATE_FACTS, STATE_FORMAT = "step_", "state.json", 2
"""Of a full state: what its folder's name begins with, the file that says what it is, and that file's format."""
ADAPTER = "adapter"
"""Folder of a LoRA adapter, beside the merged model's files."""
ADAPTERS = "adapters.json"
"""How much the adapters train, and which modules have none."""
