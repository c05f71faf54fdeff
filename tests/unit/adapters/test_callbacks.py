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
    [(rule, fix)] = callbacks.missing(["recorder", "os:system"])
    assert rule == "training.callbacks: os:system: no installed package offers it"
    assert "recorder, ends, nothing, broken" in fix
    with pytest.raises(StageError, match=r"training\.callbacks: other: no installed package offers it"):
        callbacks.load(["other"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "callback broken (acme-sft 1.2) can't be made: RuntimeError: no key"),
        ("nothing", "callback nothing (acme-sft 1.2) has none of on_step, on_epoch, on_end"),
        ("leaves", "callback leaves (acme-sft 1.2) can't be made: SystemExit: 0"),
        ("awaited", "callback awaited (acme-sft 1.2): on_step is `async`, and nothing would await it"),
    ],
)
def test_one_that_can_not_be_called_is_refused(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(StageError) as caught:
        callbacks.load([name])
    assert caught.value.message == said


def test_one_that_two_packages_offer_is_refused_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "one", monkeypatch)
    facts = tmp_path / "two" / "other_sft-3.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-sft\nVersion: 3\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text("[sft.callbacks]\nends = json:JSONDecoder\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "two")
    assert [*callbacks.missing(["recorder"])] == []
    with pytest.raises(StageError) as caught:
        callbacks.load(["ends"])
    assert caught.value.message == "training.callbacks: ends: is offered by other-sft 3, acme-sft 1.2"


def test_one_that_calls_sys_exit_does_not_end_the_run_as_if_it_were_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    [quits] = callbacks.load(["quits"])
    with pytest.raises(StageError, match=r"callback quits \(acme-sft 1\.2\): on_end failed: SystemExit: 0"):
        quits.call("on_end", {"step": 1})


def test_one_that_fails_says_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (install(tmp_path, monkeypatch) / "fails_at").write_text("7")
    [recorder] = callbacks.load(["recorder"])
    with pytest.raises(StageError) as caught:
        recorder.call("on_step", {"step": 7})
    assert caught.value.message == "callback recorder (acme-sft 1.2): on_step failed: ValueError: no connection"
