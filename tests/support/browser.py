"""A real browser, for tests of what a page shows.

The system's Chromium, driven by Playwright; a test that needs it is skipped on a machine without Chromium. Tests take
the fixture ``browser`` of ``tests/conftest.py``, which opens an empty page for each of them.
"""

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
    """Open an empty page of a fresh browser; skip the test if there is no Chromium."""
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
