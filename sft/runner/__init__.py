"""Owns a run: walks the plan, takes from the store what is there, makes the rest, and keeps the record.

``outlook`` says what a run will find, ``walk`` does it, ``stages`` maps artifacts to each stage's inputs, ``nodes`` is
what the other machines of a training do.
"""

from __future__ import annotations

from sft.runner.nodes import follow, follows
from sft.runner.outlook import circumstances, found, run_folder
from sft.runner.walk import RunResult, register_again, run

__all__ = ["RunResult", "circumstances", "follow", "follows", "found", "register_again", "run", "run_folder"]
