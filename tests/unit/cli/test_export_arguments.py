"""Every `sft export` of a recipe has the same convention: it prints, or writes with ``--output``."""

from __future__ import annotations

import argparse

import pytest

from sft.cli.export_arguments import add_arguments, with_system


@pytest.mark.parametrize("system", ["job", "kfp", "trainjob"])
def test_a_recipe_is_printed_unless_output_names_a_file(system: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([system, "mine.yaml"]).output is None
    assert parser.parse_args([system, "mine.yaml", "--output", "made.yaml"]).output == "made.yaml"


@pytest.mark.parametrize(
    "short", [["export", "runs/a", "--to", "gguf"], ["--debug", "export", "--to=gguf", "job-1", "--output", "job"]]
)
def test_a_run_and_a_format_are_an_export_of_its_model(short: list[str]) -> None:
    place = short.index("export") + 1
    assert with_system(short) == [*short[:place], "model", *short[place:]]
    assert with_system(with_system(short)) == with_system(short)


@pytest.mark.parametrize(
    "arguments", [["export", "job", "a.yaml", "--to"], ["export"], ["run", "export", "--to"], ["export", "runs/a"], []]
)
def test_anything_else_stays_as_it_was_typed(arguments: list[str]) -> None:
    assert with_system(arguments) == arguments


def test_options_of_a_server_are_none_unless_they_are_given() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    plain = parser.parse_args(["model", "runs/a", "--to", "gguf", "--output", "x"])
    assert not hasattr(plain, "gpus")
    assert (plain.kind, plain.keep, plain.overrides) == ("auto", False, [])
    assert parser.parse_args(["model", "runs/a", "--to", "kserve", "--output", "x", "--gpus", "0"]).gpus == 0
