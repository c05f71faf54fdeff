"""The page of a run in a real browser, as a file and live: it fits, reads and prints; `sft report` and `sft watch`."""

from __future__ import annotations

import json
import re
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sft import record
from sft.report.run_page import as_html
from tests.support.command import sft_in_process, start
from tests.support.runs import step_row, view

if TYPE_CHECKING:
    from playwright.sync_api import Page

_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => {
    const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const low = new Set();
  for (const one of document.querySelectorAll("main *")) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.getClientRects().length || one.tagName === "SCRIPT") continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.add(`${one.tagName}.${one.className}: ${one.textContent.slice(0, 40)}`);
  }
  return [...low];
}"""
"""WCAG 2.2, 1.4.3: texts whose contrast with what is behind them is less than 4.5."""

_OVERLAPS = """() => {
  const found = [];
  for (const group of document.querySelectorAll(".xs, .ys, .bars")) {
    const boxes = [...group.children].map(one => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([text, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
      const apart = a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
      if (!apart) found.push(`${text} | ${other}`);
    }));
  }
  return found;
}"""


def opened(browser: Page, folder: Path) -> list[str]:
    """Opens a run's page; returns what the browser complains of or asks the network for."""
    path = folder / "run.html"
    path.write_text(as_html(view(folder)), encoding="utf-8")
    complaints: list[str] = []
    browser.on("console", lambda message: complaints.append(message.text))
    browser.on("pageerror", lambda error: complaints.append(str(error)))
    browser.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
    browser.goto(path.as_uri())
    return [text for text in complaints if text != "data:,"]


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_asks_for_nothing_fits_overlaps_nowhere_and_can_be_read(
    width: int, scheme: str, browser: Page, tmp_path: Path
) -> None:
    browser.set_viewport_size({"width": width, "height": 900})
    browser.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    assert opened(browser, tmp_path) == []
    assert browser.evaluate(_OVERLAPS) == []
    assert browser.evaluate(_CONTRASTS) == []  # opens all
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    texts = browser.evaluate(
        "[...document.querySelectorAll('.plot span')].map(one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(texts) >= 11


def test_pointing_reads_a_step_dragging_zooms_and_a_double_click_shows_all(browser: Page, tmp_path: Path) -> None:
    browser.set_viewport_size({"width": 1000, "height": 900})
    opened(browser, tmp_path)
    chart, read = browser.locator("#loss svg"), browser.locator("#loss .read")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    browser.mouse.move(box["x"] + 0.2, middle)
    values = f"training {step_row(1)['loss']:.4g}, validation {step_row(50)['validation_loss']:.4g} (step 50)"
    assert read.inner_text() == f"step 1: {values}"
    browser.mouse.move(box["x"] + box["width"] * 0.25, middle)
    browser.mouse.down()
    browser.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=4)
    browser.mouse.up()
    left, _, width, _ = (float(number) for number in (chart.get_attribute("viewBox") or "").split())
    assert (left, width) == (pytest.approx(250, abs=10), pytest.approx(250, abs=10))
    ticks = [float(text) for text in browser.locator("#loss .xs span").all_inner_texts()]
    assert ticks
    assert all(70 <= tick <= 155 for tick in ticks)
    chart.dblclick()
    assert chart.get_attribute("viewBox") == "0 0 1000 1000"


def test_a_keyboard_reads_and_zooms(browser: Page, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    browser.locator("#rate svg").focus()
    browser.keyboard.press("ArrowRight")
    assert browser.locator("#rate .read").inner_text().startswith("step 2: ")
    browser.keyboard.press("+")
    assert browser.locator("#rate svg").get_attribute("viewBox") != "0 0 1000 1000"
    browser.keyboard.press("Escape")
    assert browser.locator("#rate svg").get_attribute("viewBox") == "0 0 1000 1000"


def test_each_chart_has_a_table(browser: Page, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    for what in ("scores", "steps", "lengths", "times"):
        browser.locator(f"details#{what} summary").click()
        assert browser.locator(f"details#{what} table tbody tr").first.is_visible()


def test_on_paper_it_is_light_and_tables_are_open(browser: Page, tmp_path: Path) -> None:
    browser.emulate_media(color_scheme="dark")
    opened(browser, tmp_path)
    browser.emulate_media(media="print", color_scheme="dark")
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.locator("details#scores").get_attribute("open") is not None
    assert browser.locator("details#settings").get_attribute("open") is None  # long
    assert browser.evaluate(_CONTRASTS) == []
    assert browser.pdf().startswith(b"%PDF")


def test_report_makes_the_page_of_a_run_anew_and_opens_it(tmp_path: Path) -> None:
    run = view(tmp_path, upto="tokenize")
    run.record.status = "failed"
    run.record.save(run.folder)
    shown = tmp_path / "shown"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > "{shown}"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    answer = sft_in_process("report", "my-run", "--open", cwd=tmp_path, BROWSER=str(program))
    assert answer.status == 0
    page, note = answer.out.splitlines()
    assert page == "page: my-run/run.html"
    assert "shown is what run.json says; sft verify my-run tells what is wrong" in note  # its store is not here
    assert "What happened" not in (run.folder / "run.html").read_text(encoding="utf-8")
    assert "failed" in (run.folder / "run.html").read_text(encoding="utf-8")
    assert shown.read_text(encoding="utf-8").strip() == (run.folder / "run.html").as_uri()


def test_report_of_several_runs_names_compare(tmp_path: Path) -> None:
    view(tmp_path).record.save(view(tmp_path).folder)
    answer = sft_in_process("report", "my-run", "other", cwd=tmp_path)
    assert (answer.status, "sft compare my-run other --html FILE" in answer.err) == (2, True)
    answer = sft_in_process("report", ".", cwd=tmp_path)
    assert (answer.status, "sft compare . --html FILE" in answer.err) == (1, True)


@pytest.mark.long
def test_watch_shows_a_run_as_it_goes_on_changes_nothing_of_it_and_ends_with_ctrl_c(
    browser: Page, tmp_path: Path
) -> None:
    run = view(tmp_path, upto="evaluate:base", num_steps=3)
    train = run.record.step("train")
    train.status, train.key, train.started_at = "running", "abc", record.now()
    staging = tmp_path / "store" / ".staging" / "train-abc" / "logs"
    staging.mkdir(parents=True)
    metrics = staging / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(step_row(step))}\n" for step in (1, 2)), encoding="utf-8")
    run.record.save(run.folder)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(tmp_path)}
    with start("watch", "my-run", "--port", "0", cwd=tmp_path) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address is not None, line
        browser.goto(address[0])
        browser.locator("details#steps summary").click()
        assert browser.locator("details#steps tbody tr").count() == 2
        assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(tmp_path)} == before
        with metrics.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(step_row(3))}\n")
        browser.mouse.move(0, 0)
        browser.locator("details#steps tbody tr").nth(2).wait_for()  # still open
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
    browser.locator("body.lost").wait_for()


def files_of(root: Path) -> list[Path]:
    """Return every file but empty locks."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
