"""A copied recipe: what comes along, and that nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.cli.recipes import copy, schema
from sft.config.compose import shipped
from sft.config.json_schema import schema_text
from sft.errors import ConfigError, SftError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_recipe_starts_from_and_refers_to_comes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "of mine"
    assert copy("quickstart_fsdp_sweep", str(folder)) == 0
    assert (folder / "recipe.schema.json").read_text() == schema_text()
    (folder / "recipe.schema.json").unlink()
    names = ["quickstart.yaml", "quickstart_fsdp_sweep.yaml", "tasks/spell_numbers.jsonl", "tasks/spell_numbers.yaml"]
    assert contents(folder) == {name: (shipped("recipes") / name).read_bytes() for name in names}
    wrote = [f"wrote {folder / name}" for name in names]
    assert capsys.readouterr().out.splitlines() == [*wrote, f"next: sft run '{folder}/quickstart_fsdp_sweep.yaml'"]


def test_nothing_is_written_where_a_file_would_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "spell_numbers.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"spell_numbers\.yaml: is there already and is not overwritten"):
        copy("quickstart", str(tmp_path))
    assert contents(tmp_path) == {"tasks/spell_numbers.yaml": b"mine"}


def test_the_schema_is_printed_as_it_is_copied(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema() == 0
    assert capsys.readouterr().out == schema_text()


def test_recipes_in_one_folder_share_the_schema(tmp_path: Path) -> None:
    copy("quickstart", str(tmp_path))
    copy("gsm8k", str(tmp_path))
    assert len(list(tmp_path.glob("*.schema.json"))) == 1


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SftError, match=r"gsm8k\.yaml can't be written: File exists"):
        copy("gsm8k", str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SftError, match=r"file/gsm8k\.yaml can't be written"):
        copy("gsm8k", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "rule"),
    [("quickstar", "did you mean quickstart"), ("{}/mine.yaml", "mine.yaml: is not a shipped recipe")],
)
def test_only_shipped_recipes_are_copied(name: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\n")
    with pytest.raises(ConfigError, match=rule):
        copy(name.format(tmp_path), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
