"""`docs/settings.md` is what the dataclasses of the settings say."""

from __future__ import annotations

import os

from sft.config.json_schema import recipe_schema
from tests.support.documented import pages

PAGE = pages().SETTINGS


def test_the_page_of_settings_is_current() -> None:
    now = pages().settings_page()
    if os.environ.get("UPDATE_GOLDEN") == "1":
        PAGE.write_text(now, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == now, "UPDATE_GOLDEN=1 writes it"


def test_every_setting_is_on_it() -> None:
    text, missing = PAGE.read_text(encoding="utf-8"), []
    groups = [("", recipe_schema())]
    for prefix, group in groups:
        for name, what in group["properties"].items():
            if prefix or name not in ("defaults", "hydra"):
                if "properties" in what:
                    groups.append((f"{prefix}{name}.", what))
                elif f"| `{prefix}{name}` |" not in text:
                    missing.append(f"{prefix}{name}")
    assert len(groups) > 10
    assert missing == []
