"""How many samples of each source train, against the closed form."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sft.config.schema import DatasetConfig, Mixing, MixingStop, SourceConfig
from sft.errors import DataError
from sft.planning.mixing import Mix

SIZES = {"maths": 100, "chat": 1000, "code": 10}


def mix_of(
    mixing: Mixing, stop: MixingStop = MixingStop.first_exhausted, temperature: float = 1.0, **own: float
) -> Mix:
    key = "epochs" if mixing is Mixing.concatenate else "weight"
    sources = {name: SourceConfig(uri="x", **({key: own[name]} if name in own else {})) for name in SIZES}
    cfg = DatasetConfig(uri="", sources=sources, mixing=mixing, stop=stop, mixing_temperature=temperature)
    mix = Mix.of(cfg)
    assert mix is not None
    return mix


def test_a_dataset_of_one_uri_has_no_mix() -> None:
    assert Mix.of(DatasetConfig(uri="rows.jsonl")) is None


def test_concatenated_sources_are_there_as_often_as_their_epochs_say() -> None:
    assert mix_of(Mixing.concatenate).counts(SIZES) == SIZES
    counts = mix_of(Mixing.concatenate, maths=2.5, chat=0.0005, code=0.25).counts(SIZES)
    assert counts == {"maths": 250, "chat": 1, "code": 3}  # halves are rounded up


@pytest.mark.parametrize("stop", MixingStop)
@pytest.mark.parametrize("weights", [{}, {"maths": 3.0}, {"maths": 0.5, "chat": 2.0, "code": 0.25}])
def test_shares_are_the_weights_up_to_the_source_that_ends_the_mix(stop: MixingStop, weights: dict[str, float]) -> None:
    counts = mix_of(Mixing.proportional, stop, **weights).counts(SIZES)
    exact = {name: Fraction(weights.get(name, 1.0)) for name in SIZES}
    ends = [SIZES[name] / exact[name] for name in SIZES]
    scale = min(ends) if stop is MixingStop.first_exhausted else max(ends)
    assert counts == {name: int(exact[name] * scale + Fraction(1, 2)) for name in SIZES}
    over = [name for name in SIZES if counts[name] > SIZES[name]]
    under = [name for name in SIZES if counts[name] < SIZES[name]]
    assert not (over if stop is MixingStop.first_exhausted else under)
    assert any(counts[name] == SIZES[name] for name in SIZES)


def test_temperature_1_is_by_size_and_a_high_one_makes_shares_equal() -> None:
    assert mix_of(Mixing.temperature).counts(SIZES) == SIZES
    assert mix_of(Mixing.temperature, temperature=1e6).counts(SIZES) == {"maths": 10, "chat": 10, "code": 10}


def test_temperature_2_shares_by_the_square_root_of_size_times_weight() -> None:
    counts = mix_of(Mixing.temperature, MixingStop.all_exhausted, 2.0, code=2.0).counts(SIZES)
    # shares: 10, 31.62, 2 * 3.162; chat lasts longest: 1000 / 31.62 = 31.62 per share
    assert counts == {"maths": round(10 * 1000**0.5), "chat": 1000, "code": round(2 * 10**0.5 * 1000**0.5)}


def test_a_source_without_samples_can_keep_no_share() -> None:
    with pytest.raises(DataError, match=r"dataset\.sources\.code: no sample"):
        mix_of(Mixing.proportional).counts({**SIZES, "code": 0})
    assert mix_of(Mixing.concatenate).counts({**SIZES, "code": 0})["code"] == 0


def test_a_weight_that_would_fill_a_disk_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.sources\.code: would be repeated 10,000 times, of at most 1,000"):
        mix_of(Mixing.proportional, MixingStop.all_exhausted, code=100.0).counts(SIZES)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.sources\.chat: its share of the mix is less than half a sample"):
        mix_of(Mixing.proportional, chat=0.001).counts(SIZES)
