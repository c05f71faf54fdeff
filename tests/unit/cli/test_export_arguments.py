"""Every `sft export` of a recipe has the same convention: it prints, or writes with ``--output``."""

from __future__ import annotations

import argparse

import pytest

from sft.cli.export_arguments import add_arguments


@pytest.mark.parametrize("system", ["job", "kfp", "trainjob"])
def test_a_recipe_is_printed_unless_output_names_a_file(system: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([system, "mine.yaml"]).output is None
    assert parser.parse_args([system, "mine.yaml", "--output", "made.yaml"]).output == "made.yaml"
