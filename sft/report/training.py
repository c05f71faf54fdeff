"""The steps of one training, as a page that needs nothing else."""

from __future__ import annotations

from sft.artifacts import CheckpointArtifact
from sft.report.learning import charts, logs_of, read_resumes, read_steps, read_validations
from sft.report.page import as_page, pairs, section
from sft.report.source_losses import by_set, by_source


def as_html(model: CheckpointArtifact) -> str:
    """Return the curves of a training: its loss and, where it was measured, the validation loss, speed and memory.

    Args:
        model: What the training made.
    """
    logs = logs_of(model.root)
    steps = read_steps(logs)
    losses = [step.loss for step in steps if step.loss is not None]
    validation = [step.validation_loss for step in steps if step.validation_loss is not None]
    facts = {
        "steps": f"{model.num_steps:,}",
        "epochs": f"{model.num_epochs:g}",
        "loss at the first step": f"{losses[0]:.4f}" if losses else "not measured",
        "loss at the last step": f"{model.final_loss:.4f}",
        "trained on": model.ran_on,
    }
    if model.choice:
        facts["the model"] = model.choice.told
    if validation:
        facts["validation loss at the last step that has one"] = f"{validation[-1]:.4f}"
    drawn = charts(steps, read_resumes(logs), read_validations(logs))
    body = section("Training", drawn) + section("In figures", pairs(facts))
    body += section("By source", by_source(logs)) + section("By held-out set", by_set(logs))
    return as_page("Training loss", body)
