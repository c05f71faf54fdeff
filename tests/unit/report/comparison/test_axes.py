"""Where values lie on an axis, and what is written along it."""

from __future__ import annotations

import pytest

from sft.report.comparison.axes import Axis, number, of_numbers, of_texts


@pytest.mark.parametrize("values", [[0.1, 0.5], [1e-5, 1.0], [-3.0, 4.0], [2.0, 2.0], [0.0, 0.0], [-5.0, -4.0]])
def test_every_value_lies_within_its_axis(values: list[float]) -> None:
    axis = of_numbers(values)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert axis.ticks()
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in axis.ticks())


def test_what_differs_by_much_is_logarithmic() -> None:
    axis = of_numbers([1e-5, 1e-1], margin=0.0)
    assert axis.is_log
    assert axis.place(1e-3) == pytest.approx(0.5)
    assert [text for _, text in axis.ticks()] == ["1e-5", "1e-4", "0.001", "0.01", "0.1"]


def test_positive_numbers_have_no_axis_below_zero() -> None:
    assert of_numbers([1.0, 18.0]).low == 0.0


def test_what_is_the_same_but_for_noise_looks_the_same() -> None:
    axis = of_numbers([1.0, 1.001])
    assert abs(axis.place(1.0) - axis.place(1.001)) < 0.05


def test_equal_values_lie_in_the_middle() -> None:
    assert Axis(low=2.0, high=2.0).place(2.0) == 0.5


def test_names_lie_at_equal_distances_and_numbers_among_them_in_their_order() -> None:
    assert of_texts(["b", "a", "b"]).ticks() == [(0.25, "b"), (0.75, "a")]
    assert of_texts(["10", "9", "1e2"]).names == ("9", "10", "1e2")


def test_many_numbers_are_numbers() -> None:
    axis = of_texts([str(value) for value in range(1, 12)])
    assert (axis.names, axis.low, axis.high) == ((), 1.0, 11.0)
    assert of_numbers([0.0], margin=0.0).high == 1.0


def test_what_is_no_finite_number_is_a_name() -> None:
    assert of_texts(["nan", "1"]).names == ("nan", "1")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00012, "1.2e-4"), (2e6, "2e6"), (12_345, "12,345"), (0.25, "0.25"), (1234.5, "1,234")],
)
def test_a_number_is_as_short_as_it_may_be(value: float, text: str) -> None:
    assert number(value) == text
