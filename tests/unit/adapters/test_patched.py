"""Replaced names: in place while a block runs, and afterwards exactly what they were."""

from __future__ import annotations

import os
import types

import pytest

from sft.adapters.patched import patched, patched_environment


class Parent:
    def method(self) -> str:
        return "parent"


class Child(Parent):
    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def named(cls) -> str:
        return cls.__name__


def test_an_attribute_is_replaced_only_while_the_block_runs() -> None:
    module = types.ModuleType("library")
    module.limit = 1  # type: ignore[attr-defined]
    with patched((module, "limit", 2)):
        assert module.limit == 2
    assert module.limit == 1


@pytest.mark.parametrize("name", ["static", "named", "method"])
def test_a_class_is_afterwards_what_it_was(name: str) -> None:
    before, expected = dict(vars(Child)), getattr(Child(), name)()
    with patched((Child, name, lambda *_: "replaced")):
        assert getattr(Child(), name)() == "replaced"
    assert dict(vars(Child)) == before
    assert getattr(Child(), name)() == expected


def test_an_object_gets_back_the_method_of_its_class() -> None:
    owner = Parent()
    with patched((owner, "method", lambda: "replaced")):
        assert owner.method() == "replaced"
        assert Parent().method() == "parent"
    assert vars(owner) == {}


def test_a_name_that_is_absent_is_refused_and_nothing_stays_replaced() -> None:
    with (
        pytest.raises(AttributeError, match="Child has no moved to replace"),
        patched((Child, "static", None), (Child, "moved", None)),
    ):
        pass
    assert Child.static() == "static"
    assert not hasattr(Child, "moved")


def test_all_is_restored_after_an_error_even_what_was_replaced_twice() -> None:
    with pytest.raises(ValueError, match="inside"), patched((Child, "static", 1), (Child, "static", 2)):
        raise ValueError("inside")
    assert Child.static() == "static"


def test_environment_variables_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_TEST_SET", "before")
    monkeypatch.delenv("SFT_TEST_UNSET", raising=False)
    with patched_environment(SFT_TEST_SET="inside", SFT_TEST_UNSET="inside"):
        assert (os.environ["SFT_TEST_SET"], os.environ["SFT_TEST_UNSET"]) == ("inside", "inside")
    assert os.environ["SFT_TEST_SET"] == "before"
    assert "SFT_TEST_UNSET" not in os.environ
