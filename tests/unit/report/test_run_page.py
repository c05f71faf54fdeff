"""The page of a run: what it shows of one that is finished, failed, killed or at work."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sft import record
from sft.errors import DataError
from sft.known_secrets import add
from sft.progress import Progress
from sft.report.run_page import as_html
from sft.report.run_view import look
from sft.runner.execute import run_lock
from tests.support.runs import step_row, view


def headings(page: str) -> list[str]:
    return re.findall("<h2>([^<]+)</h2>", page)


def test_a_finished_run_has_every_section_and_no_error(tmp_path: Path) -> None:
    assert headings(as_html(view(tmp_path))) == [
        "Is it better?",
        "Did it pass?",
        "Where it is",
        "How it learned",
        "Data",
        "How long samples are",
        "What it learned from",
        "Samples that changed most",
        "Time line",
        "To repeat it",
        "Where it comes from",
    ]


def test_what_was_made_of_what_leads(tmp_path: Path) -> None:
    page = as_html(view(tmp_path))
    tiles = re.findall("<div><b>([^<]+)</b><span>([^<]+)</span>", page)
    assert tiles[:4] == [
        ("135M parameters", "base model org/base"),
        ("180 samples", "to train on, from chats.jsonl"),
        ("300 steps", "2 epochs on 2 ranks, final loss 1.2345"),
        ("1 of 3", "scores better than the base model&#x27;s; 1 worse"),
    ]
    assert ("passed", "its gate") in tiles


def test_an_interval_bar_has_better_to_the_right_whichever_way_a_score_counts(tmp_path: Path) -> None:
    page = as_html(view(tmp_path))
    bars = re.findall(r'<i class="(better|worse|unsure)" style="left:([\d.]+)%;width:([\d.]+)%"></i>', page)
    assert [kind for kind, _, _ in bars] == ["better", "unsure", "worse"]
    better, unsure, worse = ((float(left), float(left) + float(width)) for _, left, width in bars)
    assert better[0] > 50  # a loss that fell
    assert unsure[0] < 50 < unsure[1]
    assert worse[1] < 50
    assert better == pytest.approx((50 + 46 * 0.6 / 1.4, 96), abs=0.02)


def test_a_failed_run_shows_its_error_and_how_far_it_came(tmp_path: Path) -> None:
    failed = view(tmp_path, upto="tokenize")
    failed.record.status = "failed"
    step = failed.record.step("evaluate:base")
    step.status, step.error = "failed", "no such task: <arc>"
    page = as_html(failed)
    assert 'class="state failed">failed<' in page
    assert "evaluate:base: no such task: &lt;arc&gt;" in page
    assert headings(page)[:2] == ["What happened", "Where it is"]
    assert "Is it better?" not in page
    assert "sft debug" in page


def test_a_run_that_was_killed_shows_the_steps_that_it_trained(tmp_path: Path) -> None:
    killed = view(tmp_path, upto="evaluate:base")
    shutil.move(tmp_path / "store" / "train" / "0123456789abcdef0123", tmp_path / "store" / ".staging" / "train-abc")
    killed.record.status = "running"
    step = killed.record.step("train")
    step.status, step.key, step.started_at = "running", "abc", "2026-01-01T10:08:00Z"
    page = as_html(killed)
    assert "not finished: it was killed" in page
    assert "The same command continues" in page
    assert "How it learned" in headings(page)
    assert "resumed after step 150" in page


def test_a_run_at_work_is_found_so_by_its_lock_and_asks_for_itself_again_only_where_it_is_served(
    tmp_path: Path,
) -> None:
    working = view(tmp_path, upto="evaluate:base")
    working.record.status = "running"
    working.record.save(working.folder)
    assert look(working.folder).state == "stopped"
    with run_lock(working.folder, Progress(quiet=True)):
        seen = look(working.folder)
    assert seen.state == "running"
    assert 'data-live="2"' in as_html(seen, poll_seconds=2.0)
    assert "<body>" in as_html(seen)


def test_a_row_that_is_being_written_is_not_drawn_yet(tmp_path: Path) -> None:
    run = view(tmp_path, num_steps=3)
    logs = run.training_logs
    assert logs is not None
    with (logs / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert "1,2,3" not in as_html(run)
    assert '<th scope="row">3</th>' in as_html(run)
    assert '<th scope="row">4</th>' not in as_html(run)


def test_a_store_that_is_damaged_is_said_and_the_record_is_shown(tmp_path: Path) -> None:
    run = view(tmp_path)
    run.record.save(run.folder)
    key = run.record.step("train").key
    (tmp_path / "store" / "train" / str(key) / "manifest.json").write_text("{")
    seen = look(run.folder)
    assert seen.damage is not None
    assert seen.damage.endswith(f": shown is what run.json says; sft verify {run.folder} tells what is wrong")
    assert html.escape(seen.damage) in as_html(seen)


def test_what_is_gone_from_the_store_is_shown_as_the_record_has_it(tmp_path: Path) -> None:
    run = view(tmp_path)
    run.record.save(run.folder)
    shutil.rmtree(tmp_path / "store")
    page = as_html(look(run.folder))
    assert "holdout.loss" in page
    assert page.count("no longer in the store") == 2  # the tokens, the changed samples
    assert "How it learned" not in page


def test_a_folder_of_several_runs_names_the_command_for_them(tmp_path: Path) -> None:
    run = view(tmp_path)
    run.record.save(run.folder)
    with pytest.raises(DataError, match=r"holds several runs\n  try: one of them, or sft compare"):
        look(tmp_path)
    with pytest.raises(DataError, match=f"no {record.NAME}"):
        look(tmp_path / "store")


def test_a_done_step_is_hatched_a_running_one_grows_and_the_table_says_when(tmp_path: Path) -> None:
    page = as_html(view(tmp_path))
    assert page.count('class="cached"') == 1
    assert "done before, in 1:30" in page
    place = re.search(r'<b>package</b><div class="bar"><i class="ran" style="left:([\d.]+)%;width:([\d.]+)%">', page)
    assert place is not None
    assert float(place[1]) + float(place[2]) == pytest.approx(100, abs=0.02)
    assert "<td>2026-01-01T10:16:00Z</td>" in page


def test_the_mask_is_coloured_and_rows_are_counted(tmp_path: Path) -> None:
    page = as_html(view(tmp_path))
    assert '<span class="loss">Yes, it is.</span>' in page
    assert '<span class="context">&lt;|im_start|&gt;user\nIs 1 &lt; 2?</span>' in page
    for name, count in (("read", "210"), ("to train on", "180"), ("rejected", "4"), ("duplicates", "6")):
        assert f'<th scope="row">{name}</th><td>{count}</td>' in page
    assert "up to 64 tokens" in page


def test_digests_versions_and_settings_are_there_and_secrets_are_not(tmp_path: Path) -> None:
    run = view(tmp_path)
    add(["hunter2hunter2"], "a test")
    run.record.config["token"] = "hunter2hunter2"
    page = as_html(run)
    assert "hunter2" not in page
    for text in ("ab" * 32, f"{4:064x}", "org/base at c0ffee", "num_epochs: 2", "msgspec"):
        assert text in page or text == "msgspec"
    assert "sft run my.yaml training.num_epochs=2" in page


def test_a_step_made_of_this_runs_own_results_names_them(tmp_path: Path) -> None:
    run = view(tmp_path)
    run.record.step("train").inputs = {"model": f"{1:064x}", "tokenize": "f" * 64}
    assert f"<td>model, tokenize {'f' * 64}</td>" in as_html(run)


def test_without_a_base_model_the_scores_are_a_table(tmp_path: Path) -> None:
    run = view(tmp_path)
    made = {name: artifact for name, artifact in run.artifacts.items() if name not in {"compare", "evaluate:base"}}
    page = as_html(replace(run, artifacts=made))
    assert headings(page)[0] == "Its scores"
    assert '<th scope="row">holdout.loss</th>' in page


def test_curves_have_their_figures_in_a_table(tmp_path: Path) -> None:
    run = view(tmp_path, num_steps=2)
    page = as_html(run)
    assert '<th scope="col">MFU, %</th>' in page
    row = step_row(2)
    assert f"<td>{row['loss']:,.4g}</td>" in page
    assert "<td>41.2</td>" in page
    assert "<td>11</td>" in page
