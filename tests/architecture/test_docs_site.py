"""The docs: pages made from the code say what it says, links lead somewhere, the site builds and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from sft.chat.sample import RULES
from sft.config.schema.bounds import number
from tests.support.documented import GUIDES, pages

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]


PAGES = pages()


def test_rules_and_errors_are_those_of_the_code() -> None:
    text = PAGES.errors_page()
    assert all(f"| `{rule}` | {mend} |" in text for rule, mend in RULES.items())
    assert "| `training.launcher.node_rank` |" in text
    wanted = "| `dataset.split` | is not read with dataset.sources, each of which has its own | try ….NAME.split=… |"
    assert wanted in text
    assert "| …: no such file |" in text
    assert len(text.splitlines()) > 400
    assert [line for line in text.splitlines() if line.startswith("|") and line.count("|") < 3] == []


def test_a_message_is_read_out_of_the_code_that_makes_it() -> None:
    import ast

    source = (
        "def check(cfg):\n"
        "    rule = f'must divide {cfg.heads}'\n"
        "    yield Problem(key=f'{base}.x', value=cfg.x, rule=rule, suggestion='try 4' if cfg.x else 'try 8')\n"
        "    raise SftError('{} is gone'.format(path), fix='fetch it')\n"
        "    raise SftError(told)\n"
    )
    [function] = ast.parse(source).body
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    found = [message for call in calls for message in PAGES._message(call, function, 1)]
    told = {(message.key, message.text, message.mend) for message in found}
    assert told == {("….x", "must divide …", "try 4 / try 8"), ("", "… is gone", "fetch it")}


def test_a_setting_has_its_type_default_and_bounds() -> None:
    from dataclasses import dataclass

    @dataclass
    class Group:
        size: int | None = number(None, at_least=1, at_most=9)

    field = Group.__dataclass_fields__["size"]
    assert PAGES._bounds(field) == "Must be at least 1 and at most 9."
    assert (PAGES._type(int | None), PAGES._default(field)) == ("whole number or null", "null")


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("evaluation.md", "[x](../benchmarks/RESULTS.md#a)", "[x](results.md#a)"),
        ("adr/0001-a.md", "[x](../data.md)", "[x](../data.md)"),
        ("contributing.md", "[x](docs/extending.md)", "[x](extending.md)"),
        ("security.md", "[x](docs/record.md#y) [z](https://example.org)", "[x](record.md#y) [z](https://example.org)"),
        ("howto.md", "[x](pages.py)", "[x](errors.md)"),
        ("evaluation.md", "see [x](../sft/paired.py).", "see x."),
    ],
)
def test_links_to_files_of_the_repository_lead_to_pages(page: str, link: str, leads_to: str) -> None:
    assert PAGES.linked(link, page) == leads_to


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(ROOT)))
def test_links_of_a_guide_lead_to_files_of_the_repository(guide: Path) -> None:
    text = re.sub(r"```.*?```", "", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", text)
    lost = [target for target in targets if not (guide.parent / target.partition("#")[0]).exists()]
    assert lost == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


class _Fetched(HTMLParser):
    """Collects what a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(has.get("src") or "")
        if tag == "link" and has.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(has.get("href") or "")


@pytest.mark.long
@pytest.mark.slow
def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 25
    for page in pages:
        parser = _Fetched()
        parser.feed(page.read_text(encoding="utf-8"))
        fetched = [link for link in parser.found if link and not link.startswith("data:")]
        assert len(fetched) > 2
        for link in fetched:
            assert not urlsplit(link).netloc, f"{page.name}: {link}"
            if page.name != "404.html":  # its links begin at the root of a server
                assert (page.parent / unquote(urlsplit(link).path)).exists(), f"{page.name}: {link}"


@pytest.mark.slow
def test_pages_are_read_without_a_network_on_a_phone_too(site: Path, browser: Page) -> None:
    asked: list[str] = []
    browser.on("request", lambda request: asked.append(request.url))
    for name in ("index.html", "tutorial.html", "howto.html", "settings.html"):
        browser.set_viewport_size({"width": 390, "height": 800})
        browser.goto((site / name).as_uri())
        browser.wait_for_load_state("load")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, name
        assert browser.locator("h1").count() == 1
    assert len(asked) > 4
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
