"""A recorded setting comes back as it was, whatever it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sft.config.compose import compose
from sft.runner import rerun
from tests.support.configs import composed


@pytest.mark.parametrize(
    "text",
    [
        "${nowhere}",
        "a \\${nowhere}",
        "\\\\${nowhere}",
        "tab\tand ${nowhere}\nin two lines",
        "bell \x07 ${nowhere}",
        "ends in \\",
        "'quoted' \"twice\": #no",
        "2024-13-45",
        "🙂\u2028\u0085",
        "null",
    ],
)
def test_a_text_is_repeated_as_it_was_recorded(text: str) -> None:
    cfg = composed()
    cfg.registry.description, cfg.training.env = text, {"NCCL_DEBUG": text}
    recorded = rerun.RecordedRun(Path("run.json"), {"config": msgspec.to_builtins(cfg)})
    with rerun.recipe(recorded, []) as recipe:
        assert compose(recipe, []) == cfg
