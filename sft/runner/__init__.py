"""Run a plan: take from the store what is there, make the rest, and keep the record.

``status`` looks up what is done, ``execute`` runs the plan, ``dispatch`` maps artifacts to each stage's inputs,
``prune`` removes what no run needs, ``reregister``, ``export_model`` and ``rerun`` act on a run that has ended,
``worker_node`` is what the other machines of a training do, ``export_trainjob`` and ``export_job`` print a training or
a whole run for somebody else to create.
"""

from __future__ import annotations

from sft.runner.dispatch import check_known_samples
from sft.runner.execute import RunResult, run
from sft.runner.export_job import Pod, export_job
from sft.runner.export_model import export_model
from sft.runner.export_request import ExportRequest
from sft.runner.export_trainjob import export_trainjob
from sft.runner.reregister import reregister
from sft.runner.run_lock import is_running
from sft.runner.status import find_done, read_environment, run_folder, work_digest
from sft.runner.worker_node import is_worker_node, run_worker_node

__all__ = [
    "ExportRequest",
    "Pod",
    "RunResult",
    "check_known_samples",
    "export_job",
    "export_model",
    "export_trainjob",
    "find_done",
    "is_running",
    "is_worker_node",
    "read_environment",
    "reregister",
    "run",
    "run_folder",
    "run_worker_node",
    "work_digest",
]
