"""The page with the curves of one training."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sft.artifacts import CheckpointArtifact
from sft.report.training import as_html
from tests.support.runs import step_row


def page(folder: Path, rows: list[dict[str, float]]) -> str:
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return as_html(CheckpointArtifact(root=folder, num_steps=len(rows), num_epochs=1, final_loss=2.0, world_size=1))


def test_it_has_a_chart_of_each_thing_that_was_measured_and_the_losses_in_figures(tmp_path: Path) -> None:
    text = page(tmp_path, [step_row(step) for step in range(1, 101)])
    assert re.findall('<figure id="([a-z]+)"', text) == ["loss", "rate", "speed", "mfu", "memory", "norm"]
    assert f"<td>{step_row(1)['loss']:.4f}</td>" in text
    assert f"<td>{step_row(100)['validation_loss']:.4f}</td>" in text
    assert "<td>1 rank</td>" in text


def test_what_a_cpu_does_not_measure_has_no_chart(tmp_path: Path) -> None:
    text = page(tmp_path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
    assert re.findall('<figure id="([a-z]+)"', text) == ["loss"]
