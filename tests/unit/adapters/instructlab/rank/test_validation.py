"""The loss of held-out sets, whose samples ranks divide, against plain transformers, a sample at a time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import loss
from sft.adapters.instructlab.rank.validation import Validation
from sft.adapters.instructlab.settings import WorkerOptions
from tests.support.architectures import VOCABULARY
from tests.unit.adapters.instructlab.rank.test_loss import wrapped

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
LENGTHS = {"many": (5, 17, 9, 30, 12, 6, 21), "long": (90,)}
BUDGET = 64  # of the training's minibatches: the long sample is none of its own


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, str]:
    import torch

    random, files = torch.Generator().manual_seed(0), {}
    for name, lengths in LENGTHS.items():
        file = tmp_path / f"{name}.jsonl"
        with file.open("w", encoding="utf-8") as target:
            for length in lengths:
                ids = torch.randint(3, VOCABULARY, (length,), generator=random).tolist()
                labels = [-100] * (length // 2) + ids[length // 2 :]
                target.write(json.dumps({"input_ids": ids, "labels": labels, "len": length}) + "\n")
        files[name] = str(file)
    return files


def validation(sets: dict[str, str], num_ranks: int, rank: int, batch_size: int = 4) -> Validation:
    from instructlab.training.sampler import MaxTokensPerRankCollator

    collate = MaxTokensPerRankCollator(BUDGET, rank=rank, world_size=num_ranks, flash_enabled=False)
    training = SimpleNamespace(collate_fn=collate, batch_size=batch_size, num_workers=0)
    return Validation(WorkerOptions(validation_sets=sets), training, None)


def by_hand(model: Any, file: str) -> tuple[float, int]:
    import torch

    summed, count = 0.0, 0
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        logits = model.model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1].float()
        targets = torch.tensor(row["labels"])[1:]
        summed += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        count += int((targets != -100).sum())
    return summed, count


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_together_have_each_labelled_token_of_a_set_once(
    num_ranks: int, sets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed as dist

    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals)  # each rank's own, added up here
    model = wrapped("llama")
    for name in LENGTHS:
        loaders = [validation(sets, num_ranks, rank).sets[name] for rank in range(num_ranks)]
        assert len({tuple(len(batch) for batch in loader) for loader in loaders}) == 1, "no rank waits for another"
        found = sum(loss.summed_losses(model, loader, "cpu") for loader in loaders)
        summed, count = by_hand(model, sets[name])
        assert found[0].item() == pytest.approx(summed, rel=1e-6)
        assert found[1].item() == count


def test_a_validation_names_each_sets_loss_and_draws_no_random_number(
    sets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import torch.distributed as dist

    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals)
    model, before = wrapped("llama"), torch.random.get_rng_state()
    row = validation(sets, 1, 0).measure(model, "cpu")
    assert row.pop("validation_seconds") > 0
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.model.training
    expected = {name: by_hand(model, file) for name, file in sets.items()}
    total, count = (sum(numbers) for numbers in zip(*expected.values(), strict=True))
    losses = {f"validation_loss.{name}": summed / number for name, (summed, number) in expected.items()}
    assert row == pytest.approx(
        {
            **losses,
            **{f"num_validation_tokens.{name}": number for name, (_, number) in expected.items()},
            "validation_loss": total / count,
            "num_validation_tokens": count,
        },
        rel=1e-6,
    )


def test_the_loss_of_the_split_stays_its_own_beside_sets(sets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist
    from instructlab.training import main_ds

    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals)
    of_split = {"val_loss": 7.0, "val_num_tokens": 3, "validation_loss.math": 8.0}
    monkeypatch.setattr(main_ds, "compute_validation_loss", lambda *_: {**of_split})
    both = validation(sets, 1, 0)
    both.split = SimpleNamespace(dataset=range(5))
    row = both.measure(wrapped("llama"), "cpu")
    assert (row["validation_loss"], row["num_validation_tokens"], row["validation_loss.math"]) == (7.0, 3, 8.0)
    assert {f"validation_loss.{name}" for name in LENGTHS} < row.keys()
    assert both.num_split_samples == 5


def test_nothing_is_validated_without_a_split_and_sets() -> None:
    assert not validation({}, 1, 0)
