"""The draw of the held-out split: unbiased, nested, the same for any order of the file."""

from __future__ import annotations

import random
from pathlib import Path

from sft.adapters.evaluation.holdout_sample import HeldOutSample, draw

LINES = [f'{{"n":{number}}}\n' for number in range(2000)]


def drawn(
    folder: Path, lines: list[str], limit: int | None, seed: int = 1, left_out: set[int] = frozenset()
) -> set[str]:
    sample = sample_of(folder, lines, limit, seed, left_out)
    assert list(sample.places) == sorted(sample.places)
    return {lines[place] for place in sample.places}


def sample_of(
    folder: Path, lines: list[str], limit: int | None, seed: int = 1, left_out: set[int] = frozenset()
) -> HeldOutSample:
    file = folder / "eval.jsonl"
    file.write_text("".join(lines))
    return draw(file, limit=limit, seed=seed, left_out=left_out)


def test_a_smaller_draw_is_part_of_a_larger_one_and_any_order_draws_the_same(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(LINES, len(LINES))
    small, large = drawn(tmp_path, LINES, 100), drawn(tmp_path, shuffled, 200)
    assert (len(small), len(large)) == (100, 200)
    assert small < large
    assert sample_of(tmp_path, LINES, 100).digest == sample_of(tmp_path, shuffled, 100).digest


def test_a_draw_is_not_the_beginning_of_the_file_but_spread_over_it(tmp_path: Path) -> None:
    places = sample_of(tmp_path, LINES, 400).places
    assert 150 < sum(place < 1000 for place in places) < 250  # five standard deviations


def test_another_seed_draws_others(tmp_path: Path) -> None:
    assert len(drawn(tmp_path, LINES, 100) & drawn(tmp_path, LINES, 100, seed=2)) < 30
    assert sample_of(tmp_path, LINES, 100).digest != sample_of(tmp_path, LINES, 100, seed=2).digest


def test_samples_that_are_left_out_are_not_drawn_and_others_take_their_place(tmp_path: Path) -> None:
    left_out = set(range(0, 2000, 2))
    assert sample_of(tmp_path, LINES, None, left_out=left_out).places == tuple(range(1, 2000, 2))
    few = sample_of(tmp_path, LINES, 100, left_out=left_out).places
    assert len(few) == 100
    assert not left_out & set(few)


def test_a_limit_beyond_the_split_takes_all(tmp_path: Path) -> None:
    assert len(drawn(tmp_path, LINES, 5000)) == len(LINES)
