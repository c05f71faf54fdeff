"""Owns a run: walks the plan, takes from the store what is there, makes the rest, and keeps the record.

``outlook`` says what a run will find, ``walk`` does it, ``later`` registers what it made again, ``stages`` maps
artifacts to each stage's inputs, ``nodes`` is what the other machines of a training do, ``handover`` a training for
somebody else to begin; ``sweep`` is what is kept of many runs that were one question.
"""

from __future__ import annotations

from sft.runner.execute import RunResult, is_at_work, run
from sft.runner.export_trainjob import train_job
from sft.runner.reregister import register_again
from sft.runner.status import circumstances, found, run_folder, work_of
from sft.runner.worker_node import follow, follows

__all__ = [
    "RunResult",
    "circumstances",
    "follow",
    "follows",
    "found",
    "is_at_work",
    "register_again",
    "run",
    "run_folder",
    "train_job",
    "work_of",
]
