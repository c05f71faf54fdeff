"""The frame of every page: one file that needs nothing else, with the stylesheet and the script that all share."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; connect-src 'self'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body{live}>
<main>
<h1>{title}</h1>
{body}
</main>
{script}</body>
</html>
"""


def as_page(title: str, body: str, *, style: str = "", script: str = "", poll_seconds: float | None = None) -> str:
    """Return a whole page.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS beyond what all pages share.
        script: JavaScript beyond what all pages share.
        poll_seconds: How often the page asks for itself again; None = it is a file that stays as it is.
    """
    code = _asset("page.js") if poll_seconds is not None or "<figure" in body or "<details" in body else ""
    live = "" if poll_seconds is None else f' data-live="{poll_seconds:g}"'
    return _PAGE.format(
        title=html.escape(title),
        body=body,
        style=_asset("page.css") + style,
        script=f"<script>\n{code}{script}</script>\n" if code or script else "",
        live=live,
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def section(title: str, content: str, text: str = "") -> str:
    """Return a part of a page under a heading; nothing where there is no content.

    Args:
        title: Plain text.
        content: HTML.
        text: A plain sentence beneath the heading.
    """
    if not content:
        return ""
    told = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{content}</section>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Return facts side by side: each a figure or word, and what it is."""
    items = (f"<div><b>{html.escape(fact)}</b><span>{html.escape(what)}</span></div>" for fact, what in facts)
    return f'<div class="facts">{"".join(items)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts, the first of a row its head; it scrolls where it is wider than the page."""
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = (
        f'<tr><th scope="row">{html.escape(first)}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f'<div class="scroll" tabindex="0"><table>{top}<tbody>{"".join(body)}</tbody></table></div>'


def pairs(facts: Mapping[str, str]) -> str:
    """Return names and values, plain texts, as a table whose values wrap."""
    rows = (f'<tr><th scope="row">{html.escape(n)}</th><td>{html.escape(v)}</td></tr>' for n, v in facts.items())
    return f"<table>{''.join(rows)}</table>"


def details(name: str, summary: str, content: str, *, is_long: bool = False) -> str:
    """Return a part that is opened by a click.

    Args:
        name: Its id, the same each time the page is made.
        summary: Plain text.
        content: HTML.
        is_long: Whether it is left out of a printed page unless it is open.
    """
    kind = ' class="long"' if is_long else ""
    return f'<details id="{html.escape(name)}"{kind}><summary>{html.escape(summary)}</summary>{content}</details>'


def bars(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return rows of a name, the HTML of a bar, and what it says."""
    cells = (
        f'<b>{html.escape(n)}</b><div class="bar">{bar}</div><span>{html.escape(told)}</span>' for n, bar, told in rows
    )
    return f'<div class="bars">{"".join(cells)}</div>'
