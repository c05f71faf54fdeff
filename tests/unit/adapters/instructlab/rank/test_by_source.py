"""The loss by source, against torch's cross-entropy of each source's tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from sft.adapters.instructlab.rank import by_source, chunked_head, loss
from sft.adapters.instructlab.rank.by_source import BY_SOURCE
from sft.adapters.instructlab.rank.minibatches import collate_row, collate_to_padded_length
from sft.adapters.instructlab.rank.objective import Objective
from sft.adapters.patched import patched
from tests.support.architectures import SHAPE, VOCABULARY

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
NAMES = ("math", "chat", "none")


@pytest.fixture(autouse=True)
def told_apart() -> Iterator[None]:
    with patched((BY_SOURCE, "names", NAMES)):
        yield
    BY_SOURCE.sums = BY_SOURCE._sources = None


def samples() -> list[dict[str, Any]]:
    """Three samples, two of them of `chat`; the first token of each has no label."""
    import torch

    made = []
    for num_tokens, source in ((11, 1), (7, 0), (5, 1)):
        ids = torch.randint(3, VOCABULARY, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens))
        labels = [-100, -100, *ids[2:].tolist()]
        made.append({"input_ids": ids, "labels": labels, "num_loss_counted_tokens": num_tokens - 2, "source": source})
    return made


def model() -> Any:
    import torch
    from instructlab.training.model import Model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    made = Model.__new__(Model)
    made.model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE)).train()
    made.is_gpt_oss = made.is_granitemoehybrid = False
    return made


def expected(made: Any, *, smoothing: float = 0.0) -> dict[str, float]:
    """Each source's mean, by torch, from each sample on its own."""
    import torch

    losses: dict[str, list[float]] = {}
    for sample in samples():
        with torch.no_grad():
            logits = made.model(input_ids=sample["input_ids"][None]).logits[0, :-1]
        labels = torch.tensor(sample["labels"][1:])
        of_tokens = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        losses.setdefault(NAMES[sample["source"]], []).extend(of_tokens[labels != -100].tolist())
    return {name: sum(values) / len(values) for name, values in losses.items()}


def measured(made: Any, minibatch: dict[str, Any], **how: Any) -> dict[str, float]:
    BY_SOURCE.begin("cpu")
    scaled, of_all = loss.compute_loss(made, loss.inputs(minibatch, made, "cpu"), 1, 1, **how)
    scaled.backward()
    of_sources = BY_SOURCE.sums.tolist()
    assert sum(of_sources[:3]) == pytest.approx(of_all.main_loss.item(), rel=1e-5)
    return by_source.means(of_sources, NAMES, "loss")


@pytest.mark.parametrize("is_packed", [True, False])
def test_each_sources_mean_is_that_of_its_own_tokens(is_packed: bool) -> None:
    from instructlab.training.sampler import padded_mb_collate_fn

    collate = partial(collate_row, token_budget=64) if is_packed else collate_to_padded_length(64, padded_mb_collate_fn)
    made = model()
    row = measured(made, dict(collate(samples(), 17)))
    if is_packed:  # plain attention mixes the samples of a row; which tokens are whose can be seen all the same
        assert (row["num_loss_tokens.math"], row["num_loss_tokens.chat"]) == (5, 12)
        return
    wanted = expected(made)
    assert row == {
        "loss.math": pytest.approx(wanted["math"], rel=1e-5),
        "num_loss_tokens.math": 5,
        "loss.chat": pytest.approx(wanted["chat"], rel=1e-5),
        "num_loss_tokens.chat": 12,
    }


def test_it_is_the_loss_that_is_trained_and_in_chunks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from instructlab.training.sampler import padded_mb_collate_fn

    monkeypatch.setattr(chunked_head, "CHUNK", 4)
    made = model()
    minibatch = dict(collate_to_padded_length(64, padded_mb_collate_fn)(samples(), 17))
    smooth = Objective(label_smoothing=0.1).over_logits
    row = measured(made, minibatch, losses=smooth)
    wanted = expected(made, smoothing=0.1)
    assert [row["loss.math"], row["loss.chat"]] == pytest.approx([wanted["math"], wanted["chat"]], rel=1e-5)


def test_nothing_is_added_up_where_there_is_one_source() -> None:
    with patched((BY_SOURCE, "names", ())):
        minibatch = collate_row(samples(), 17, token_budget=64)
        assert "sample_sources" not in minibatch
        made = model()
        BY_SOURCE.begin("cpu")
        loss.compute_loss(made, loss.inputs(minibatch, made, "cpu"), 1, 1)
        assert BY_SOURCE.sums.tolist() == []


def test_a_dataset_of_the_library_says_each_samples_source(tmp_path: Any) -> None:
    from instructlab.training.sampler import TokenDataset

    rows = [f'{{"input_ids":[1,2],"labels":[-100,2],"len":2,"source":"{name}"}}\n' for name in ("chat", "math", "chat")]
    (tmp_path / "data.jsonl").write_text("".join(rows))
    with patched((BY_SOURCE, "names", ()), *by_source.patches(NAMES)):
        data = TokenDataset(str(tmp_path / "data.jsonl"))
        assert [data[place]["source"] for place in range(3)] == [1, 0, 1]
    assert "source" not in data[0]


def test_a_held_out_set_beside_sources_has_none(tmp_path: Any) -> None:
    from instructlab.training.sampler import TokenDataset

    (tmp_path / "gold.jsonl").write_text('{"input_ids":[1,2],"labels":[-100,2],"len":2}\n')
    with patched((BY_SOURCE, "names", ()), *by_source.patches(NAMES)):
        assert "source" not in TokenDataset(str(tmp_path / "gold.jsonl"))[0]
