"""What a score is made of, written and read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sft.sample_values import SampleValues, append, read


def test_values_come_back_as_they_were_written(tmp_path: Path) -> None:
    loss = SampleValues(score="holdout.loss", units=[0, 7], sums=[1.5, math.pi], counts=[2.0, 3.0], clusters=[0, 0])
    accuracy = SampleValues(score="group.acc", units=["first"], sums=[0.1])
    append(tmp_path, [loss])
    append(tmp_path, [accuracy])
    assert read(tmp_path) == {"holdout.loss": loss, "group.acc": accuracy}


def test_a_score_is_a_mean_a_ratio_or_the_exponential_of_one() -> None:
    values = {"score": "t.m", "units": [0, 1], "sums": [1.0, 2.0]}
    assert SampleValues(**values).value == 1.5
    assert SampleValues(**values, counts=[2.0, 4.0]).value == 0.5
    assert SampleValues(**values, is_exponential=True).value == pytest.approx(math.exp(1.5))


def test_an_evaluation_that_kept_no_values_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path)
