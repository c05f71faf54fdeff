"""Owns telling Kubeflow Trainer how far a training is: ``status.trainerStatus`` of the TrainJob.

With its feature gate ``TrainJobStatus`` (alpha) the controller gives pods an address and the files of a certificate and
of a token, which lives an hour and is replaced in its file. A training that can't tell goes on.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.monitor import TrainingProgress

URL, CA, TOKEN = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
_METRICS = ("loss", "validation_loss", "learning_rate", "tokens_per_second", "step", "epoch")
_TIMEOUT_SECONDS = 5.0


class TrainerStatus:
    """Where the progress is told, as the pod's environment says; nowhere without.

    Args:
        say: Prints a line: why it can't be told, once for each reason.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._trouble = say, ""

    def tell(self, progress: TrainingProgress) -> None:
        """Tell the progress, if somebody asked for it."""
        url = os.environ.get(URL, "")
        if not url:
            return
        trouble = ""
        try:
            self._post(url, json.dumps(body(progress)).encode())
        except (OSError, ValueError, http.client.HTTPException) as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            self._say(f"the TrainJob's status does not get the progress ({trouble}); the training goes on")
        self._trouble = trouble

    def _post(self, url: str, content: bytes) -> None:
        token = Path(os.environ[TOKEN]).read_text(encoding="utf-8").strip() if os.environ.get(TOKEN) else ""
        context = ssl.create_default_context(cafile=os.environ.get(CA) or None)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(url, data=content, headers=headers, method="POST")
        # The address is the cluster's own: no proxy leads there, and the token goes nowhere else.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )
        with opener.open(request, timeout=_TIMEOUT_SECONDS):
            pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes an error of a redirect: following one would hand the token to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def body(progress: TrainingProgress) -> dict[str, Any]:
    """Return what Trainer's server takes: names and values of metrics are texts of 1 to 64 characters."""
    row = progress.row
    return {
        "trainerStatus": {
            "progressPercentage": min(100, int(100 * row["step"] / progress.num_steps)),
            "estimatedRemainingSeconds": max(0, round(progress.seconds_left)),
            "metrics": [{"name": name, "value": f"{row[name]:.6g}"} for name in _METRICS if name in row],
            "lastUpdatedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    }
