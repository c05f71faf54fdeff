"""The split written in one pass is the exact one, and the same for any order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import xxhash

from sft.stages.split import Counts, Split

SEED = 7


def make(out: Path, lines: list[bytes], held: list[bytes] | None = None, **settings: Any) -> Counts:
    out.mkdir()
    usual = {"seed": SEED, "train_split": 0.9, "max_samples": None, "has_eval_source": held is not None}
    split = Split(out, **(usual | settings))
    for begin in range(0, len(lines), 997):
        batch = lines[begin : begin + 997]
        split.add(batch, batch)
    if held:
        split.add(held, held, held_out=True)
    return split.finish()


def read(out: Path) -> tuple[list[bytes], list[bytes]]:
    return (out / "train.jsonl").read_bytes().splitlines(), (out / "eval.jsonl").read_bytes().splitlines()


def ranked(lines: list[bytes]) -> list[bytes]:
    """Each line once, by rank."""
    return sorted(set(lines), key=lambda line: xxhash.xxh3_128_digest(line, SEED)[:8][::-1])


def numbered(count: int) -> list[bytes]:
    return [f'{{"n":{number}}}'.encode() for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 10, 500, 60_000])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_one_pass_gives_exactly_the_samples_of_lowest_rank(tmp_path: Path, count: int, share: float) -> None:
    lines = numbered(count)
    counts = make(tmp_path / "out", lines, train_split=share)
    expected = ranked(lines)
    num_train = round(count * share)
    train, held = read(tmp_path / "out")
    assert (counts.num_train, counts.num_eval) == (num_train, count - num_train) == (len(train), len(held))
    assert set(train) == set(expected[:num_train])
    assert set(held) == set(expected[num_train:])


def test_few_samples_wait(tmp_path: Path) -> None:
    tmp_path.joinpath("out").mkdir()
    split = Split(tmp_path / "out", seed=SEED, train_split=0.9, max_samples=None, has_eval_source=False)
    lines = numbered(60_000)
    for begin in range(0, len(lines), 500):
        split.add(lines[begin : begin + 500], lines[begin : begin + 500])
    assert len(split._waiting) < 12 * len(lines) ** 0.5 + 500
    assert split.finish().num_train == 54_000


def test_a_border_far_from_where_it_was_guessed_is_mended(tmp_path: Path) -> None:
    lines = ranked(numbered(5000))[:3000]  # only low ranks: all look like training samples
    make(tmp_path / "out", lines)
    train, held = read(tmp_path / "out")
    assert (set(train), set(held)) == (set(lines[:2700]), set(lines[2700:]))


def test_duplicates_and_samples_beyond_the_limit_are_written_nowhere(tmp_path: Path) -> None:
    lines = numbered(1000) + numbered(300)
    counts = make(tmp_path / "out", random.Random(0).sample(lines, len(lines)), max_samples=400)
    train, held = read(tmp_path / "out")
    assert counts == Counts(num_train=360, num_eval=40, num_duplicates=300, num_overlap=0, num_unused=600)
    assert sorted(train + held) == sorted(ranked(lines)[:400])
    assert not list(tmp_path.glob("out/*.part"))


def test_what_the_evaluation_set_holds_does_not_train(tmp_path: Path) -> None:
    lines = numbered(100) + numbered(10)
    held_out = numbered(105)[95:] + numbered(105)[100:]
    counts = make(tmp_path / "out", lines, held_out)
    train, held = read(tmp_path / "out")
    assert counts == Counts(num_train=95, num_eval=10, num_duplicates=15, num_overlap=5, num_unused=0)
    assert (train, held) == (numbered(95), numbered(105)[95:])


def test_any_order_gives_the_same_halves(tmp_path: Path) -> None:
    lines = numbered(3000)
    make(tmp_path / "a", lines)
    make(tmp_path / "b", random.Random(1).sample(lines, len(lines)))
    for first, second in zip(read(tmp_path / "a"), read(tmp_path / "b"), strict=True):
        assert set(first) == set(second)
