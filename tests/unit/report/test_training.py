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


def test_a_validated_set_has_a_line_of_its_own_and_a_row_with_its_lowest_loss(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": step, "loss": 1.0} for step in range(1, 7)]
    assert "By held-out set" not in page(tmp_path, rows)
    for step, gold, chat in ((2, 3.0, 2.5), (4, 2.0, 2.75), (6, 2.25, 3.0)):
        rows[step - 1] |= {"validation_loss": 2.0, "validation_loss.gold": gold, "validation_loss.chat": chat}
    (other := tmp_path / "other").mkdir()
    text = page(other, rows)
    names = re.findall('<small class="key s[0-9]">([^<]+)</small>', text)
    assert names == ["training", "validation", "validation of gold", "validation of chat"]
    assert '{"name": "validation of gold", "points": [[2, 3.0], [4, 2.0], [6, 2.25]]}' in text
    assert '<th scope="row">gold</th><td>3.0000</td><td>2.0000</td><td>4</td><td>2.2500</td>' in text
    assert '<th scope="row">chat</th><td>2.5000</td><td>2.5000</td><td>2</td><td>3.0000</td>' in text
    assert "By source" not in text


def test_a_chart_has_no_more_lines_than_colours(tmp_path: Path) -> None:
    losses = {f"validation_loss.set_{number}": 1.0 for number in range(9)}
    text = page(tmp_path, [{"step": 1, "loss": 1.0, "validation_loss": 1.0, **losses}])
    assert len(re.findall('<small class="key s[0-9]">', text)) == 6
    assert "<p>5 more of the losses by name have no line; the tables below have all.</p>" in text
    assert '<th scope="row">set_8</th>' in text
