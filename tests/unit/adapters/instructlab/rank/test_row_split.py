"""The samples of a row train, or are validated: never some of them each."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sft.adapters.instructlab.rank.row_split import patches, validated_samples
from sft.adapters.patched import patched
from sft.errors import StageError


def rows_of(sizes: list[int]) -> list[int]:
    return [row for row, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize("seed", range(20))
def test_no_row_stands_on_both_sides_and_as_many_are_validated_as_wanted(seed: int) -> None:
    sizes = random.Random(seed).choices([1, 1, 2, 3, 9], k=200)
    rows = rows_of(sizes)
    places = validated_samples(rows, 40, seed)
    validated = {rows[place] for place in places}
    assert places == [place for place, row in enumerate(rows) if row in validated]
    assert len(places) == 40
    assert places == validated_samples(rows, 40, seed)
    assert places != validated_samples(rows, 40, seed + 100)


def test_where_rows_are_too_large_fewer_samples_are_validated_than_wanted() -> None:
    assert len(validated_samples(rows_of([3, 3, 3]), 5, 0)) == 3
    assert validated_samples(rows_of([9]), 3, 0) == []


def test_every_row_is_as_likely_to_be_validated_as_another() -> None:
    counts = [0] * 10
    for seed in range(2_000):
        for place in validated_samples([*range(10)], 2, seed):
            counts[place] += 1
    assert all(abs(count - 400) < 5 * (2_000 * 0.2 * 0.8) ** 0.5 for count in counts)


def write(folder: Path, rows: list[int]) -> tuple[str, str]:
    data, file = folder / "data.jsonl", folder / "rows.txt"
    samples = [{"input_ids": [place, row], "labels": [place, row], "len": 2 + row} for place, row in enumerate(rows)]
    data.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    file.write_text("".join(f"{row}\n" for row in rows))
    return str(data), str(file)


@pytest.mark.filterwarnings("ignore")
def test_the_library_loads_whole_rows_for_each_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instructlab.training import sampler

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = rows_of([2] * 20)
    data, file = write(tmp_path, rows)
    with patched(*patches(file)):
        trained, validated = sampler.TokenDataset.load_and_split(data, validation_split=0.1, seed=3)
        everything, nothing = sampler.TokenDataset.load_and_split(data)
    assert validated is not None
    sides = [{int(sample["input_ids"][1]) for sample in side} for side in (trained, validated)]
    assert (len(trained), len(validated)) == (36, 4)
    assert not sides[0] & sides[1]
    for side in (trained, validated):
        assert [int(length) for length in side.get_lengths()] == [2 + int(sample["input_ids"][1]) for sample in side]
    assert (len(everything), nothing) == (40, None)
    _, upstream = sampler.TokenDataset.load_and_split(data, validation_split=0.1, seed=3)
    assert upstream is not None
    assert {int(sample["input_ids"][1]) for sample in upstream} & sides[0], "the guard is needed"


@pytest.mark.filterwarnings("ignore")
def test_a_share_that_no_row_fits_into_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instructlab.training import sampler

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data, file = write(tmp_path, rows_of([10, 10]))
    with patched(*patches(file)), pytest.raises(StageError) as caught:
        sampler.TokenDataset.load_and_split(data, validation_split=0.1, seed=3)
    assert str(caught.value).startswith(
        "training.validation_split=0.1 takes 2 of 20 samples, and each row has more, which stay together"
    )


def test_where_each_row_is_a_sample_nothing_is_replaced() -> None:
    assert patches("") == []
