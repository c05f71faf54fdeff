"""Files that arrive in pieces: resumed if they are of the same version, and begun anew after any damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.partial_file import PartialFile


def arrive(target: Path, version: str, content: bytes) -> PartialFile:
    partial = PartialFile(target)
    partial.start(version)
    with partial.append() as file:
        file.write(content)
    return partial


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "x"


def test_the_target_appears_only_when_it_is_published_and_nothing_stays_beside_it(target: Path) -> None:
    partial = arrive(target, "v1", b"all")
    assert not target.exists()
    partial.publish()
    assert [path.name for path in target.parent.iterdir()] == ["x"]
    assert target.read_bytes() == b"all"


def test_another_process_resumes_a_part_of_the_same_version(target: Path) -> None:
    arrive(target, "v1", b"be")
    assert (PartialFile(target).version, PartialFile(target).num_bytes) == ("v1", 2)
    arrive(target, "v1", b"gin").publish()
    assert target.read_bytes() == b"begin"


@pytest.mark.parametrize("version", ["v2", ""])
def test_a_part_of_another_or_of_an_unknown_version_is_discarded(version: str, target: Path) -> None:
    arrive(target, "v1", b"old")
    arrive(target, version, b"new").publish()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("note", [None, b"", b'{"vers', b"[]", b'"text"', b"{}", b"\xff\xfe"])
def test_a_missing_or_torn_note_makes_all_of_it_arrive_again(note: bytes | None, target: Path) -> None:
    arrive(target, "v1", b"old")
    path = target.with_name("x.part.json")
    path.unlink() if note is None else path.write_bytes(note)
    assert PartialFile(target).version == ""
    arrive(target, "v1", b"new").publish()
    assert target.read_bytes() == b"new"


def test_an_empty_part_belongs_to_no_version(target: Path) -> None:
    arrive(target, "v1", b"")
    assert PartialFile(target).version == ""
    arrive(target, "v2", b"new")
    assert json.loads(target.with_name("x.part.json").read_bytes()) == {"version": "v2"}


def test_a_kill_between_the_two_writes_never_makes_old_bytes_a_part_of_the_new_version(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(target, "v1", b"old")

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("pathlib.Path.unlink", "sft.adapters.partial_file.write_json"):
        with monkeypatch.context() as patches:
            patches.setattr(step, kill)
            with pytest.raises(KeyboardInterrupt):
                PartialFile(target).start("v2")
        assert PartialFile(target).version != "v2"
