"""The page with the loss of one training."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sft.artifacts import CheckpointArtifact
from sft.report.training import as_html


def page(folder: Path, rows: list[dict[str, float | None]]) -> str:
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    last = rows[-1]["loss"] or 0.0
    model = CheckpointArtifact(root=folder, num_steps=len(rows), num_epochs=1, final_loss=last, world_size=1)
    return as_html(model)


def test_the_curve_goes_from_the_first_loss_at_the_top_left_to_the_last_at_the_bottom_right(tmp_path: Path) -> None:
    text = page(tmp_path, [{"step": step, "loss": 4.0 - step} for step in (1, 2, 3)])
    [line] = re.findall(r'class="line" points="([^"]+)"', text)
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # SVG counts downwards
    assert points[1][0] == (points[0][0] + points[2][0]) / 2
    assert "<td>3.0000</td>" in text
    assert "<td>1.0000</td>" in text


def test_the_validation_loss_has_a_curve_of_its_own_where_it_was_measured(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = [{"step": step, "loss": 1.0, "validation_loss": None} for step in range(1, 9)]
    rows[3]["validation_loss"] = rows[7]["validation_loss"] = 2.0
    text = page(tmp_path, rows)
    [line] = re.findall(r'class="line validation" points="([^"]+)"', text)
    assert len(line.split()) == 2


def test_a_long_training_is_drawn_with_its_first_and_last_step(tmp_path: Path) -> None:
    text = page(tmp_path, [{"step": step, "loss": 1.0} for step in range(1, 3003)])
    [line] = re.findall(r'class="line" points="([^"]+)"', text)
    assert 500 < len(line.split()) <= 1001
