"""The quickstart, run once for every test that looks at what a run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Answer, sft


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Folder and answer of ``sft run quickstart``."""
    cwd = tmp_path_factory.mktemp("quickstart")
    return cwd, sft("run", "quickstart", cwd=cwd)
