"""Which epoch's model a score chooses, and what becomes of its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sft.artifacts import CheckpointArtifact, ChosenStep, EvalReport, hash_files
from sft.config.schema import SelectConfig, SelectMode
from sft.errors import StageError
from sft.progress import Progress
from sft.scores import Score
from sft.stages.select import SelectInputs, best_epoch, select, trained_checkpoint, trained_step


def score(value: float, metric: str = "loss", *, higher: bool = False) -> Score:
    return Score(task="holdout", metric=metric, value=value, stderr=0.1, num_samples=9, higher_is_better=higher)


def report(value: float) -> EvalReport:
    return EvalReport(root=Path(), model_digest="m", scores=(score(value), score(0.5, "perplexity")))


@pytest.fixture
def trained(tmp_path: Path) -> CheckpointArtifact:
    """A LoRA training of three epochs of two steps each."""
    root = tmp_path / "train"
    models = {1: "checkpoints/samples_10", 2: "checkpoints/samples_20", 3: "model"}
    for epoch, folder in models.items():
        adapter = root / ("adapter" if folder == "model" else f"{folder}/adapter")
        for path in (root / folder, adapter):
            path.mkdir(parents=True, exist_ok=True)
        (root / folder / "model.safetensors").write_text(f"weights of {epoch}")
        (adapter / "adapter_model.safetensors").write_text(f"adapter of {epoch}")
    (root / "logs").mkdir()
    seen = [(0, 8), (0, 10), (1, 18), (1, 20), (2, 28), (2, 30)]
    rows = [{"epoch": epoch, "step": place, "samples_seen": count} for place, (epoch, count) in enumerate(seen, 1)]
    (root / "logs" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CheckpointArtifact(root=root, digest="d", num_steps=6, num_epochs=3, final_loss=1.0, world_size=2)


def chosen(
    trained: CheckpointArtifact, out: Path, *values: float, cfg: SelectConfig | None = None
) -> CheckpointArtifact:
    inputs = SelectInputs(
        checkpoint=trained,
        epochs={epoch: report(value) for epoch, value in enumerate(values, 1)},
        files=hash_files(trained.root),
    )
    out.mkdir()
    return select(cfg or SelectConfig(metric="holdout.loss"), inputs, out, Progress(quiet=True))


@pytest.mark.parametrize(("values", "epoch"), [((2.0, 1.0, 1.5), 2), ((1.0, 1.5, 2.0), 1), ((3.0, 2.0, 1.0), 3)])
def test_the_best_epochs_model_and_adapter_are_what_goes_on_under_their_usual_names(
    trained: CheckpointArtifact, tmp_path: Path, values: tuple[float, ...], epoch: int
) -> None:
    made = chosen(trained, tmp_path / "out", *values)
    assert (made.model_dir / "model.safetensors").read_text() == f"weights of {epoch}"
    assert (made.root / "adapter" / "adapter_model.safetensors").read_text() == f"adapter of {epoch}"
    assert [*hash_files(made.root)] == ["adapter/adapter_model.safetensors", "model/model.safetensors"]
    assert made.metrics_file.read_text() == trained.metrics_file.read_text()
    assert made.choice == ChosenStep(
        step=2 * epoch, metric="holdout.loss", value=values[epoch - 1], num_steps=6, num_planned=6, epoch=epoch,
        num_models=3,
    )  # fmt: skip
    assert (made.model_dir / "model.safetensors").stat().st_nlink == 2, "no bytes are written twice"


def test_the_choice_is_told_with_what_it_does_to_the_score(trained: CheckpointArtifact, tmp_path: Path) -> None:
    choice = chosen(trained, tmp_path / "out", 2.0, 1.0, 1.5).choice
    assert choice is not None
    assert str(choice) == "chose step 4 of 6, the end of epoch 2, by holdout.loss 1"
    assert choice.optimism == (
        "scores on holdout are optimistic: on the same samples the best of 3 models was chosen; unbiased are those on "
        "a set or task that chose nothing"
    )
    assert ChosenStep(step=7, metric="validation_loss", value=1.0, num_steps=9, num_planned=9).optimism == ""


def test_of_equal_scores_the_first_epochs_is_taken(trained: CheckpointArtifact, tmp_path: Path) -> None:
    made = chosen(trained, tmp_path / "out", 2.0, 1.0, 1.0)
    assert made.choice
    assert made.choice.epoch == 2


def test_more_is_better_where_the_score_says_so_and_a_mode_overrules_it() -> None:
    accuracy = {epoch: score(value, "acc", higher=True) for epoch, value in {1: 0.2, 2: 0.6, 3: 0.4}.items()}
    assert best_epoch(SelectConfig(metric="holdout.acc"), accuracy) == 2
    assert best_epoch(SelectConfig(metric="holdout.acc", mode=SelectMode.max), accuracy) == 2
    assert best_epoch(SelectConfig(metric="holdout.acc", mode=SelectMode.min), accuracy) == 1


def test_a_mode_against_the_direction_of_a_tasks_score_is_said(trained: CheckpointArtifact, tmp_path: Path) -> None:
    said: list[str] = []
    inputs = SelectInputs(checkpoint=trained, epochs={3: report(1.0)}, files=hash_files(trained.root))
    progress = Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign]
    (tmp_path / "out").mkdir()
    select(SelectConfig(metric="holdout.loss", mode=SelectMode.max), inputs, tmp_path / "out", progress)
    assert "  training.select.mode=max: holdout.loss is better when it is lower" in said


def test_an_infinite_score_is_never_the_best_and_nothing_else_can_be_chosen_by() -> None:
    cfg = SelectConfig(metric="holdout.loss")
    assert best_epoch(cfg, {1: score(math.inf), 2: score(9.0)}) == 2
    assert best_epoch(cfg, {1: score(-math.inf), 2: score(9.0)}) == 2
    with pytest.raises(StageError, match=r"holdout.loss of every epoch is infinite"):
        best_epoch(cfg, {1: score(math.inf)})


def test_a_score_that_there_is_not_is_named(trained: CheckpointArtifact, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no score holdout.acc"):
        chosen(trained, tmp_path / "out", 1.0, cfg=SelectConfig(metric="holdout.acc"))


def test_a_run_goes_on_with_what_was_chosen_and_without_a_choice_with_what_was_trained(
    trained: CheckpointArtifact, tmp_path: Path
) -> None:
    made = chosen(trained, tmp_path / "out", 1.0, 2.0, 3.0)
    assert trained_checkpoint({}) is None
    assert trained_checkpoint({"train": trained}) is trained
    assert trained_checkpoint({"train": trained, "select": made}) is made
    assert (trained_step({"train": trained}), trained_step({"train": trained, "select": made})) == ("train", "select")
