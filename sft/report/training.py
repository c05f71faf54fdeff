"""The loss of one training over its steps, as a page that needs nothing else."""

from __future__ import annotations

import html
import json

from sft.artifacts import CheckpointArtifact
from sft.report.comparison.charts import loss_chart
from sft.report.page import PAGE

_STYLE = """<style>
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
.title { font-weight: 600; } .tick { fill: #666; } .grid { stroke: #ddd; } .axis { stroke: #666; }
.line { fill: none; stroke: #1d4ed8; stroke-width: 1.8; stroke-linejoin: round; }
.validation { stroke: #d97706; }
</style>"""
_MOST_POINTS = 1000


def as_html(model: CheckpointArtifact) -> str:
    """Return the curves of the training loss and, where it was measured, of the validation loss.

    Args:
        model: What the training made.
    """
    rows = [json.loads(line) for line in model.metrics_file.read_text(encoding="utf-8").splitlines()]
    training = [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
    validation = [(row["step"], row["validation_loss"]) for row in rows if row.get("validation_loss") is not None]
    every = -(-len(training) // _MOST_POINTS)
    parts = [_STYLE, loss_chart([*training[:-1:every], training[-1]], validation)]
    facts = {
        "steps": f"{model.num_steps:,}",
        "epochs": f"{model.num_epochs:,}",
        "loss at the first step": f"{training[0][1]:.4f}",
        "loss at the last step": f"{model.final_loss:.4f}",
        "trained on": model.ran_on,
    }
    if validation:
        facts["validation loss at the last step that has one"] = f"{validation[-1][1]:.4f}"
    table = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
    return PAGE.format(title="Training loss", body="\n".join([*parts, f"<table>{table}</table>"]))
