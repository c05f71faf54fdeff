"""A mix holds what the closed form says, the same at each time, and what is in it is counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from sft.config.schema import Mixing, MixingStop
from sft.planning.mixing import Mix
from sft.stages.mixing import mix

SIZES = {"maths": 30, "chat": 100}


def write(file: Path) -> list[str]:
    lines = [
        json.dumps({"input_ids": [n, 1], "labels": [-100, 1], "len": 2, "source": name}, separators=(",", ":"))
        for name, size in SIZES.items()
        for n in range(size)
    ]
    file.write_text("\n".join(lines) + "\n")
    return lines


def by_shares(stop: MixingStop, seed: int = 1, **weights: float) -> Mix:
    weights = dict.fromkeys(SIZES, 1.0) | weights
    return Mix(mixing=Mixing.proportional, stop=stop, weights=weights, epochs={}, seed=seed)


def concatenated(**epochs: float) -> Mix:
    return Mix(weights=dict.fromkeys(SIZES, 1.0), epochs=dict.fromkeys(SIZES, 1.0) | epochs, seed=1)


def mixed(file: Path, how: Mix) -> Counter[str]:
    write(file)
    mix(file, how)
    return Counter(file.read_text().splitlines())


def test_each_sample_is_there_as_often_as_any_other_of_its_source_or_once_more(tmp_path: Path) -> None:
    counts = mixed(tmp_path / "data.jsonl", by_shares(MixingStop.all_exhausted))
    maths = {line: count for line, count in counts.items() if '"maths"' in line}
    assert (len(maths), sum(maths.values())) == (30, 100)
    assert Counter(maths.values()) == {3: 20, 4: 10}
    assert sum(counts.values()) == 200


def test_what_says_the_row_of_each_sample_is_mixed_likewise(tmp_path: Path) -> None:
    file, rows = tmp_path / "data.jsonl", tmp_path / "rows.txt"
    lines = write(file)
    rows.write_text("".join(f"{place // 2}\n" for place in range(len(lines))))
    mix(file, concatenated(chat=0.5), rows)
    row_of = {line: str(place // 2) for place, line in enumerate(lines)}
    assert rows.read_text().split() == [row_of[line] for line in file.read_text().splitlines()]


def test_no_sample_is_there_twice_where_the_first_source_ends_the_mix(tmp_path: Path) -> None:
    counts = mixed(tmp_path / "data.jsonl", by_shares(MixingStop.first_exhausted))
    assert set(counts.values()) == {1}
    assert Counter('"maths"' in line for line in counts) == {True: 30, False: 30}


def test_half_an_epoch_is_part_of_a_larger_part_and_another_seed_takes_others(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    half, more = mixed(file, concatenated(chat=0.5)), mixed(file, concatenated(chat=0.8))
    assert half.keys() < more.keys()
    assert mixed(file, concatenated(chat=0.5)) == half
    first, second = (mixed(file, by_shares(MixingStop.first_exhausted, seed)) for seed in (1, 2))
    assert first != second


def test_one_epoch_of_each_is_the_file_as_it_was(tmp_path: Path) -> None:
    lines = write(tmp_path / "data.jsonl")
    mix(tmp_path / "data.jsonl", concatenated())
    assert (tmp_path / "data.jsonl").read_text().splitlines() == lines


def test_samples_copies_and_tokens_are_counted_by_source(tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl")
    sources = mix(tmp_path / "data.jsonl", concatenated(maths=2.5, chat=0.25))
    maths = {"samples": 30, "used": 75, "left_out": 0, "repeated": 45, "tokens": 150, "loss_tokens": 75}
    chat = {"samples": 100, "used": 25, "left_out": 75, "repeated": 0, "tokens": 50, "loss_tokens": 25}
    assert {name: asdict(source) for name, source in sources.items()} == {"maths": maths, "chat": chat}
