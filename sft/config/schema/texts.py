"""What a text may be: checks, and the kinds of text that several settings are."""

from __future__ import annotations

import re
import unicodedata

from sft.config.schema.rules import Text, TextCheck


def not_empty(text: str) -> str | None:
    """Refuse an empty text."""
    return None if text else "must not be empty"


def one_line(text: str) -> str | None:
    """Refuse line ends and other control characters."""
    controls = {"Cc", "Zl", "Zp"}
    is_broken = any(unicodedata.category(character) in controls for character in text)
    return "must be one line without control characters" if is_broken else None


def trimmed(text: str) -> str | None:
    """Refuse white space that nobody sees."""
    return None if text == text.strip() else "must neither begin nor end with a space"


def parts_fit(text: str) -> str | None:
    """Refuse a path that no file system takes; a query, as of a signed address, may be longer."""
    longest = max(len(part.encode()) for part in text.partition("?")[0].split("/"))
    return f"must have at most 255 bytes between two slashes, not {longest}" if longest > 255 else None


def no_longer_than(num_characters: int) -> TextCheck:
    """Refuse a text of more characters."""

    def check(text: str) -> str | None:
        too_long = f"must have at most {num_characters} characters, not {len(text)}"
        return too_long if len(text) > num_characters else None

    return check


def matches(pattern: str, rule: str) -> TextCheck:
    """Refuse a text that a regular expression does not match as a whole."""
    return lambda text: None if re.fullmatch(pattern, text, re.ASCII) else rule


def one_group(text: str) -> str | None:
    """Refuse what is no regular expression with one group."""
    import regex

    try:
        num_groups = regex.compile(text).groups
    except regex.error as error:
        return f"must be a regular expression: {error}"
    return None if num_groups == 1 else f"must have one group, the answer, not {num_groups}; (?:…) is no group"


def fits_bytes(num_bytes: int) -> TextCheck:
    """Refuse a text of more bytes in UTF-8."""

    def check(text: str) -> str | None:
        size = len(text.encode())
        return f"must have at most {num_bytes} bytes, not {size}" if size > num_bytes else None

    return check


def _without_slash(text: str) -> str | None:
    return "must be without /: it names the run's folder" if "/" in text else None


FREE = Text()
"""A text for people or models: anything but NUL."""
COLUMN = Text(not_empty)
"""A column is called whatever a file calls it."""
LINE = Text(not_empty, one_line, trimmed, no_longer_than(255))
"""A name, as registries and trackers keep it in a column of 255 characters."""
FOLDER_NAME = Text(not_empty, one_line, trimmed, _without_slash, fits_bytes(240))
"""With ``-`` and 8 digits a folder's name, which has at most 255 bytes, and an MLflow run's, at most 250 characters."""
PATH = Text(not_empty, one_line, parts_fit)
"""A path or an address."""
PATH_OR_EMPTY = Text(one_line, parts_fit)
