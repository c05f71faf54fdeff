"""The split written in one pass is the exact one, and the same for any order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from sft.stages.split import Counts, Split

SEED = 7


def make(
    out: Path,
    lines: list[bytes],
    held: list[bytes] | None = None,
    group: Callable[[bytes], bytes] = lambda line: line,
    **settings: Any,
) -> Counts:
    out.mkdir()
    usual = {"seed": SEED, "train_split": 0.9, "max_samples": None, "has_eval_source": held is not None}
    split = Split(out, **(usual | settings))
    for begin in range(0, len(lines), 997):
        batch = lines[begin : begin + 997]
        split.add(batch, batch, list(map(group, batch)))
    if held:
        split.add(held, held, list(map(group, held)), held_out=True)
    return split.finish()


def read(out: Path) -> tuple[list[bytes], list[bytes]]:
    return (out / "train.jsonl").read_bytes().splitlines(), (out / "eval.jsonl").read_bytes().splitlines()


def ranked(lines: list[bytes]) -> list[bytes]:
    """Each line once, by rank."""
    return sorted(set(lines), key=lambda line: xxhash.xxh3_64_digest(line, SEED)[::-1])


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
    assert counts == Counts(
        num_train=360, num_eval=40, num_duplicates=300, num_overlap=0, num_unused=600, num_groups=400
    )
    by_second_word = sorted(set(lines), key=lambda line: xxhash.xxh3_128_digest(line, SEED)[8:][::-1])
    assert sorted(train + held) == sorted(by_second_word[:400])
    assert not list(tmp_path.glob("out/*.part"))


def test_what_the_evaluation_set_holds_does_not_train(tmp_path: Path) -> None:
    lines = numbered(100) + numbered(10)
    held_out = numbered(105)[95:] + numbered(105)[100:]
    counts = make(tmp_path / "out", lines, held_out)
    train, held = read(tmp_path / "out")
    assert counts == Counts(num_train=95, num_eval=10, num_duplicates=15, num_overlap=5, num_unused=0, num_groups=95)
    assert (train, held) == (numbered(95), numbered(105)[95:])


def test_any_order_gives_the_same_halves(tmp_path: Path) -> None:
    lines = numbered(3000)
    make(tmp_path / "a", lines)
    make(tmp_path / "b", random.Random(1).sample(lines, len(lines)))
    for first, second in zip(read(tmp_path / "a"), read(tmp_path / "b"), strict=True):
        assert set(first) == set(second)


def of_ten(line: bytes) -> bytes:
    """The group of a numbered line: ten neighbours."""
    return line[:-2]


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
def test_a_group_goes_to_one_half_and_the_share_is_the_nearest_that_groups_allow(tmp_path: Path, share: float) -> None:
    lines = numbered(1000)
    counts = make(tmp_path / "out", random.Random(1).sample(lines, len(lines)), group=of_ten, train_split=share)
    train, held = read(tmp_path / "out")
    assert not set(map(of_ten, train)) & set(map(of_ten, held))
    assert sorted(train + held) == sorted(lines)
    assert len(train) == counts.num_train == round(100 * share) * 10
    assert counts.num_groups == 100


def test_of_two_groups_each_half_gets_one_however_unequal_they_are(tmp_path: Path) -> None:
    counts = make(tmp_path / "out", numbered(100), group=lambda line: bytes([line == b'{"n":0}']), train_split=0.9)
    assert sorted((counts.num_train, counts.num_eval)) == [1, 99]


def test_one_group_is_not_divided(tmp_path: Path) -> None:
    counts = make(tmp_path / "out", numbered(100), group=lambda line: line[:1])
    assert (counts.num_train, counts.num_eval, counts.num_groups) == (100, 0, 1)


def test_a_smaller_subset_is_part_of_a_larger_one_in_any_order(tmp_path: Path) -> None:
    lines = numbered(1000) + numbered(50)
    make(tmp_path / "small", lines, group=of_ten, max_samples=100)
    make(tmp_path / "large", random.Random(2).sample(lines, len(lines)), group=of_ten, max_samples=200)
    small, large = (set(itertools.chain(*read(tmp_path / name))) for name in ("small", "large"))
    assert (len(small), len(large)) == (100, 200)
    assert small < large
    assert len(set(map(of_ten, small))) > 40  # drawn among samples, not group after group


def test_the_groups_of_the_evaluation_set_do_not_train(tmp_path: Path) -> None:
    counts = make(tmp_path / "out", numbered(100), [b'{"n":955}', b'{"n":20}'], group=of_ten)
    train, held = read(tmp_path / "out")
    assert (counts.num_overlap, counts.num_eval) == (10, 2)
    assert not set(map(of_ten, train)) & set(map(of_ten, held))


def test_of_equal_samples_in_two_groups_any_order_keeps_the_same(tmp_path: Path) -> None:
    lines = numbered(200)
    halves = []
    for name, order in (("a", [b"a", b"b"]), ("b", [b"b", b"a"])):
        out = tmp_path / name
        out.mkdir()
        split = Split(out, seed=SEED, train_split=0.5, max_samples=None, has_eval_source=False)
        for suffix in order:
            split.add(lines, lines, [line + suffix for line in lines])
        split.finish()
        halves.append([set(half) for half in read(out)])
    assert halves[0] == halves[1]


def test_each_source_has_a_limit_of_its_own_and_counts_of_its_own(tmp_path: Path) -> None:
    lines = numbered(300)
    tmp_path.joinpath("out").mkdir()
    split = Split(tmp_path / "out", seed=SEED, train_split=0.9, max_samples=None, has_eval_source=False)
    for begin, limit in ((0, None), (50, 30), (200, 100)):  # 50 to 100 are there twice
        split.begin_source(limit)
        part = lines[begin : begin + 100]
        split.add(part, part)
    counts = split.finish()
    parts = split.by_source()
    assert [part.num_duplicates for part in parts] == [0, 50, 0]
    assert [part.num_train + part.num_eval for part in parts] == [100, 30, 100]
    assert parts[1].num_unused == 20
    assert counts.num_train == sum(part.num_train for part in parts) == 207
    used = {line for half in read(tmp_path / "out") for line in half}
    assert used >= {*lines[:100], *lines[200:]}
