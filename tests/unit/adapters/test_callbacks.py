"""Which callbacks there are, and what one that fails does."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters import callbacks
from sft.errors import StageError
from tests.support.callback_package import install


def test_a_callback_of_an_installed_package_is_found_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    recorder, ends = callbacks.load(["recorder", "ends"])
    assert (recorder.name, ends.name) == ("recorder (acme-sft 1.2)", "ends (acme-sft 1.2)")
    assert (set(recorder.methods), set(ends.methods)) == ({"on_step", "on_epoch", "on_end"}, {"on_end"})
    ends.call("on_step", {"step": 1})  # it has none
    assert [*callbacks.missing(["recorder"])] == []


def test_one_that_no_package_offers_is_named_with_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    [(name, fix)] = callbacks.missing(["recorder", "os:system"])
    assert name == "os:system"
    assert "recorder, ends, nothing, broken" in fix
    with pytest.raises(StageError, match=r"training\.callbacks: other: no installed package offers it"):
        callbacks.load(["other"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "callback broken (acme-sft 1.2) can't be made: RuntimeError: no key"),
        ("nothing", "callback nothing (acme-sft 1.2) has none of on_step, on_epoch, on_end"),
    ],
)
def test_one_that_can_not_be_called_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(StageError) as caught:
        callbacks.load([name])
    assert caught.value.message == said


def test_one_that_fails_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (install(tmp_path, monkeypatch) / "fails_at").write_text("7")
    [recorder] = callbacks.load(["recorder"])
    with pytest.raises(StageError) as caught:
        recorder.call("on_step", {"step": 7})
    assert caught.value.message == "callback recorder (acme-sft 1.2): on_step failed: ValueError: no connection"
