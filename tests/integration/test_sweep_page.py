"""The page of a comparison in a real browser: it needs nothing, fits its window, and lights up one run everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sft.report.comparison.page import as_html
from tests.support.comparisons import comparison, row

if TYPE_CHECKING:
    from playwright.sync_api import Page


def opened(browser: Page, folder: Path, num_runs: int, num_keys: int) -> list[str]:
    """Opens the page of so many runs; returns what the browser complains of or asks the network for."""
    found = comparison(num_runs, num_keys)
    if num_runs > 3:
        found.rows[-1] = row(num_runs, found.rows[-1].values, status="failed", reason="train: the loss is nan\n  try …")
    path = folder / "report.html"
    path.write_text(as_html(found), encoding="utf-8")
    complaints: list[str] = []
    browser.on("console", lambda message: complaints.append(message.text))
    browser.on("pageerror", lambda error: complaints.append(str(error)))
    browser.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
    browser.goto(path.as_uri())
    return complaints


@pytest.mark.long
@pytest.mark.parametrize(("num_runs", "num_keys", "num_charts"), [(2, 1, 4), (6, 2, 4), (40, 3, 4), (1, 1, 2)])
@pytest.mark.parametrize("width", [1200, 420])
def test_a_page_of_any_size_asks_for_nothing_and_fits_its_window(
    num_runs: int, num_keys: int, num_charts: int, width: int, browser: Page, tmp_path: Path
) -> None:
    browser.set_viewport_size({"width": width, "height": 900})
    assert opened(browser, tmp_path, num_runs, num_keys) == []
    assert browser.locator("svg:visible").count() == num_charts
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.locator("tbody tr").first.locator("td").nth(1).inner_text() == "1"
    assert browser.screenshot(full_page=True)


def test_pointing_at_a_run_lights_it_up_everywhere(browser: Page, tmp_path: Path) -> None:
    opened(browser, tmp_path, 6, 2)
    browser.locator("tbody tr[data-n='2']").hover()
    lit = browser.locator(".on:visible")
    assert {lit.nth(place).get_attribute("data-n") for place in range(lit.count())} == {"2"}
    assert lit.count() == 5  # a cell, a curve, two costs, a row of the table
    faded = browser.locator("svg:visible .p:not(.on)").first
    assert float(faded.evaluate("mark => getComputedStyle(mark).opacity")) < 0.5
    browser.locator("h1").hover()
    assert browser.locator(".on").count() == 0


def test_a_phone_shows_the_whole_of_a_chart_whose_texts_have_room(browser: Page, tmp_path: Path) -> None:
    browser.set_viewport_size({"width": 360, "height": 900})
    opened(browser, tmp_path, 2, 1)
    assert browser.locator(".narrow:visible").count() == 4
    assert browser.locator(".wide:visible").count() == 0
    opened(browser, tmp_path, 6, 2)  # a heat map is as wide as its names need
    assert browser.locator(".wide:visible").count() == 1


@pytest.mark.long
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize(("num_runs", "num_keys"), [(40, 3), (12, 1)])
def test_texts_of_a_chart_stay_inside_of_it(
    width: int, num_runs: int, num_keys: int, browser: Page, tmp_path: Path
) -> None:
    browser.set_viewport_size({"width": width, "height": 900})
    opened(browser, tmp_path, num_runs, num_keys)
    outside = browser.evaluate(
        """() => [...document.querySelectorAll("svg text")].filter(text => {
             const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
             return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1;
           }).map(text => text.textContent)"""
    )
    assert outside == []
