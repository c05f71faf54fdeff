"""Which step is best, when nothing improves any more, and what a full state holds of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank.full_states import FullStates, Position
from sft.adapters.instructlab.rank.selection import Selection, Standing, judged
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,  # imports torch
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LOWEST = WorkerOptions(select_metric="validation_loss", patience=2)


def after(*values: float, prefers_high: bool = False, min_delta: float = 0.0) -> Standing:
    standing = Standing()
    for step, value in enumerate(values, start=1):
        facts = {"step": step, "epoch": 0, "samples_seen": 10 * step}
        standing = judged(standing, value, prefers_high=prefers_high, min_delta=min_delta, **facts)
    return standing


@pytest.mark.parametrize(
    ("values", "prefers_high", "step"),
    [((3, 1, 2), False, 2), ((3, 1, 4), True, 3), ((2, 1, 1), False, 2), ((0, -1), False, 2)],
)
def test_the_first_of_the_best_is_chosen(values: tuple[float, ...], prefers_high: bool, step: int) -> None:
    standing = after(*values, prefers_high=prefers_high)
    assert (standing.step, standing.value, standing.samples_seen) == (step, values[step - 1], 10 * step)


def test_validations_without_an_improvement_are_counted_in_a_row() -> None:
    counts = [after(*[5, 4, 4, 6, 3, 3][:number]).num_without for number in range(1, 7)]
    assert counts == [0, 0, 1, 2, 0, 1]


def test_small_improvements_add_up_to_one_and_each_is_the_best_meanwhile() -> None:
    values = [1.0, 0.96, 0.92, 0.88]
    standings = [after(*values[:number], min_delta=0.1) for number in range(1, 5)]
    assert [standing.num_without for standing in standings] == [0, 1, 2, 0]
    assert [standing.step for standing in standings] == [1, 2, 3, 4]
    assert [standing.reference for standing in standings] == [1.0, 1.0, 1.0, 0.88]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def accelerator() -> Any:
    """A model of one number, 0, and what else a state is made of."""
    import torch

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return SimpleNamespace(
        model=SimpleNamespace(model=model), optimizer=SimpleNamespace(optimizer=optimizer), lr_scheduler=scheduler
    )


def validate(selection: Selection, made: Any, step: int, loss: float) -> None:
    """Make the model's number the step's, and say what its validation found."""
    import torch

    torch.nn.init.constant_(made.model.model.weight, float(step))
    row = {"step": step, "epoch": 0, "samples_seen": 10 * step, "validation_loss": loss}
    selection.judge(row, made)


def states(root: Path, selection: Selection, *, in_background: bool = False) -> FullStates:
    metrics = root / "metrics.jsonl"
    how: dict[str, Any] = {"keep": 1, "state_id": "id", "layout": {}, "seed": 0, "metrics": metrics}
    return FullStates(root / "states", selection=selection, in_background=in_background, **how)


@pytest.mark.parametrize("in_background", [False, True])
def test_the_best_weights_and_the_patience_come_back_from_a_full_state(
    in_background: bool, alone: None, tmp_path: Path
) -> None:
    selection, made = Selection(LOWEST), accelerator()
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        validate(selection, made, step, loss)
    saved = states(tmp_path, selection, in_background=in_background)
    saved.save(made, Position(step=3))
    validate(selection, made, 4, 0.5)  # a better one that the state must not hold, while it may still be written
    saved.finish()

    resumed, loaded = Selection(LOWEST), accelerator()
    states(tmp_path, resumed).load(loaded)
    assert loaded.model.model.weight.item() == 3.0
    assert (resumed.standing.step, resumed.standing.value, resumed.standing.num_without) == (2, 1.0, 1)
    assert not resumed.is_over
    validate(resumed, loaded, 4, 2.0)
    assert resumed.is_over
    resumed.restore(loaded)
    assert loaded.model.model.weight.item() == 2.0


def test_a_state_of_a_training_without_a_choice_holds_no_second_weights(alone: None, tmp_path: Path) -> None:
    from sft.adapters.instructlab.rank import state_files

    states(tmp_path, Selection(WorkerOptions())).save(accelerator(), Position(step=3))
    names = [*state_files.read_metadata(tmp_path / "states" / "step_3").state_dict_metadata]
    assert not [name for name in names if name.startswith("chosen.")]


def test_a_validation_loss_that_is_not_a_number_chooses_nothing(alone: None) -> None:
    with pytest.raises(StageError, match="validation_loss is nan at step 1"):
        validate(Selection(LOWEST), accelerator(), 1, float("nan"))


def test_a_source_without_a_sample_to_validate_on_is_refused_at_the_start() -> None:
    validation = SimpleNamespace(dataset=_Sized({"source": ["math", "math"]}))
    Selection(WorkerOptions(select_metric="validation_loss.math")).check(validation)
    with pytest.raises(StageError, match="none of the 2 samples of the validation split is of chat"):
        Selection(WorkerOptions(select_metric="validation_loss.chat")).check(validation)


def test_a_set_needs_no_validation_split() -> None:
    options = WorkerOptions(select_metric="validation_loss.gold", validation_sets={"gold": "data.jsonl"})
    Selection(options).check(None)
    Selection(options).check(SimpleNamespace(dataset=_Sized({"source": ["math"]})))


class _Sized:
    def __init__(self, columns: dict[str, list[str]]) -> None:
        self.dataset = columns

    def __len__(self) -> int:
        return len(self.dataset["source"])
