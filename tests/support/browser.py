"""A real browser for the tests that look at a page: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

TIMEOUT_SECONDS = 60.0


@contextmanager
def opened() -> Iterator[Page]:
    """An empty page of a fresh browser; the test is skipped where there is no Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH: `apt-get install chromium`")
    with sync_playwright() as playwright:
        # No sandbox: as root, which CI is, Chromium starts only without it. It sees pages of our own alone.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(TIMEOUT_SECONDS * 1000)
            yield page
        finally:
            browser.close()
