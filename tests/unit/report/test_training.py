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


def test_the_mean_of_each_source_is_by_its_tokens_in_the_first_and_the_last_tenth(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": step, "loss": 1.0} for step in range(1, 21)]
    assert "By source" not in page(tmp_path, rows)
    rows[0] |= {"loss.math": 4.0, "num_loss_tokens.math": 30}
    rows[1] |= {"loss.math": 2.0, "num_loss_tokens.math": 10, "validation_loss.math": 3.0}
    rows[10] |= {"loss.math": 9.0, "num_loss_tokens.math": 50}
    rows[19] |= {"loss.math": 1.0, "num_loss_tokens.math": 7, "validation_loss.math": 1.5}
    (other := tmp_path / "other").mkdir()
    text = page(other, rows)
    cells = "".join(f"<td>{cell}</td>" for cell in ("3.5000", "1.0000", "3.0000", "1.5000"))
    assert f'<th scope="row">math</th>{cells}' in text
