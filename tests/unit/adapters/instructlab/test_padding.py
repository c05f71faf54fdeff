"""The share of padding that is foretold is the one that a training computes, padded and packed."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from sft.adapters.instructlab.packed_rows import num_computed, pack_rows
from sft.adapters.instructlab.packing import NOTHING, pack, padded_length
from sft.adapters.instructlab.padding import padding_share

BUDGET, COST = 1024, 1e-3


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("packs_rows", [False, True])
def test_padding_is_foretold_as_training_pads(num_ranks: int, packs_rows: bool, tmp_path: Path) -> None:
    numbers = random.Random(1)
    lengths = [min(500, int(numbers.lognormvariate(4.5, 0.8)) + 5) for _ in range(70)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"len": length}) + "\n" for length in lengths), encoding="utf-8")
    random.Random(7).shuffle(shuffled := list(lengths))
    computed = 0
    for begin in range(0, len(shuffled), 32):
        batch = shuffled[begin : begin + 32]
        for rank in range(num_ranks):
            if packs_rows:
                mine = pack_rows(batch, BUDGET, num_ranks, rank, attention_cost=COST)
                computed += sum(num_computed([i for i in row if row != NOTHING], batch, BUDGET) for row in mine)
            else:
                every = itertools.chain(pack(batch, BUDGET, num_ranks, rank))
                computed += sum(
                    padded_length(max(batch[i] for i in row), BUDGET) * len(row) for row in every if row != NOTHING
                )
    found = padding_share(
        data,
        batch_size=32,
        token_budget=BUDGET,
        num_ranks=num_ranks,
        seed=7,
        packs_rows=packs_rows,
        attention_cost=COST,
    )
    assert found == pytest.approx(1 - sum(lengths) / computed)
