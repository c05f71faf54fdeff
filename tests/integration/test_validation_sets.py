"""Held-out sets that are validated while a training goes on: their losses, what they choose, what they don't touch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ChosenStep, DatasetArtifact, TokenizedArtifact
from sft.config.schema import (
    Attention,
    EarlyStoppingConfig,
    FsdpConfig,
    LauncherConfig,
    LoraConfig,
    SaveDtype,
    SelectConfig,
    TrainingConfig,
)
from sft.progress import Progress
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.train import TrainInputs
from tests.support.training import CONFIG, changed, curve, metrics, ranks, running, steps_done, train, wait_for, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CLOSE = 1e-6
ROWS = {
    "alike": [(str(number), "one two three four five six seven"[: 3 + 5 * number]) for number in range(1, 8)],
    "other": [(f"say {number}", " ".join(["zq xv"] * number)) for number in (1, 9, 2, 5)],
    "single": [("4", "four")],
}
"""The training learns digits: the loss of the first falls, and that of the second, with other letters, rises."""
NAMES = tuple(ROWS)
ONE_RANK = LauncherConfig(procs_per_worker=1)


def labelled(rows: Sequence[tuple[str, str]], inputs: TrainInputs, folder: Path) -> TokenizedArtifact:
    """The rows as the held-out set of a run, labelled as those of training are."""
    (data := folder / "data").mkdir(parents=True)
    (out := folder / "tokens").mkdir()
    with (data / "eval.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in rows:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    counts = dict.fromkeys(("num_train", "num_rejected", "num_duplicates", "num_unused"), 0)
    dataset = DatasetArtifact(root=data, source="", source_version="", num_rows=len(rows), num_eval=len(rows), **counts)
    own = TokenizeInputs(dataset=dataset, model=inputs.model, is_validated=True)
    return tokenize(CONFIG, own, out, Progress(quiet=True))


@pytest.fixture(scope="module")
def with_sets(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    folder = tmp_path_factory.mktemp("sets")
    return replace(
        train_inputs, validated={name: labelled(rows, train_inputs, folder / name) for name, rows in ROWS.items()}
    )


def trained(folder: Path, inputs: TrainInputs, **settings: Any) -> Any:
    folder.mkdir(exist_ok=True)
    own = {"validation_sets": list(inputs.validated), "save_dtype": SaveDtype.fp32, **settings}
    return train(changed(**own), inputs, folder, Progress(quiet=True))


def by_hand(model_dir: Path, sets: Mapping[str, TokenizedArtifact]) -> dict[str, tuple[float, int]]:
    """Sum of the cross-entropies of each set's labelled tokens, and their number: a row at a time, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    found = {}
    for name, tokens in sets.items():
        summed, count = 0.0, 0
        for line in tokens.data_file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            ids, targets = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1]
            counted = targets != -100
            summed += torch.nn.functional.cross_entropy(logits[counted], targets[counted], reduction="sum").item()
            count += int(counted.sum())
        found[name] = (summed, count)
    return found


def check_by_hand(made: Any, inputs: TrainInputs) -> dict[str, Any]:
    """The last row of the metrics, whose losses are compared with those of the saved model."""
    last = metrics(made.root)[-1]
    expected = by_hand(made.model_dir, inputs.validated)
    for name, (summed, count) in expected.items():
        assert last[f"num_validation_tokens.{name}"] == count == inputs.validated[name].num_loss_tokens
        assert last[f"validation_loss.{name}"] == pytest.approx(summed / count, abs=CLOSE)
    return last


def test_split_and_sets_are_told_apart_and_change_no_bit_of_the_training(
    with_sets: TrainInputs, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    settings = {"validation_split": 0.1, "validation_frequency": 4, "max_steps": 6, "launcher": ONE_RANK}
    settings["neftune_alpha"] = 5.0  # draws a random number for each step
    both = trained(tmp_path / "both", with_sets, **settings)
    alone = trained(tmp_path / "alone", train_inputs, **settings)
    assert weights(both) == weights(alone)
    assert curve(both.root) == curve(alone.root)
    rows, others = metrics(both.root), metrics(alone.root)
    assert [row["step"] for row in rows if "validation_loss.alike" in row] == [4, 6]
    assert [row["step"] for row in others if "validation_loss" in row] == [4]
    for name in ("validation_loss", "num_validation_tokens"):
        assert rows[3][name] == others[3][name]
    last = check_by_hand(both, with_sets)
    assert last["num_validation_tokens"] == others[3]["num_validation_tokens"]


def test_ranks_share_sets_that_they_dont_divide_and_without_a_split_all_tokens_are_one_mean(
    with_sets: TrainInputs, tmp_path: Path
) -> None:
    made = trained(tmp_path, with_sets, num_epochs=1, max_steps=2)
    assert [row["step"] for row in metrics(tmp_path) if "validation_loss" in row] == [2]
    last = check_by_hand(made, with_sets)
    expected = by_hand(made.model_dir, with_sets.validated).values()
    count = sum(count for _, count in expected)
    assert last["num_validation_tokens"] == count
    assert last["validation_loss"] == pytest.approx(sum(summed for summed, _ in expected) / count, abs=CLOSE)


def choosing(name: str, **settings: Any) -> TrainingConfig:
    return changed(
        validation_sets=list(NAMES),
        validation_frequency=2,
        num_epochs=1,
        select=SelectConfig(metric=f"validation_loss.{name}"),
        **settings,
    )


def test_a_set_that_gets_worse_stops_the_training_and_chooses_its_first_step(
    with_sets: TrainInputs, tmp_path: Path
) -> None:
    cfg = choosing("other", early_stopping=EarlyStoppingConfig(patience=1), launcher=ONE_RANK)
    made = train(cfg, with_sets, tmp_path, Progress(quiet=True))
    rows = [row for row in metrics(tmp_path) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[1]["validation_loss.other"] > rows[0]["validation_loss.other"]
    assert rows[1]["validation_loss.alike"] < rows[0]["validation_loss.alike"]  # which would have gone on
    assert made.choice == ChosenStep(
        step=2,
        metric="validation_loss.other",
        value=rows[0]["validation_loss.other"],
        num_steps=4,
        num_planned=7,
        stopped_early=True,
        num_models=2,
        sets=("other",),
    )
    assert made.choice.optimism.startswith("scores on other are optimistic: on the same samples the best of 2 models")
    expected = by_hand(made.model_dir, {"other": with_sets.validated["other"]})["other"]
    assert rows[0]["validation_loss.other"] == pytest.approx(expected[0] / expected[1], abs=CLOSE)


@pytest.mark.exhaustive
def test_a_killed_training_goes_on_to_the_same_choice_by_a_set(with_sets: TrainInputs, tmp_path: Path) -> None:
    cfg = choosing("other", checkpoint_every_steps=1)
    (undisturbed := tmp_path / "whole").mkdir()
    whole = train(cfg, with_sets, undisturbed, Progress(quiet=True))
    assert whole.choice
    assert whole.choice.step == 2
    (out := tmp_path / "killed").mkdir()
    with running(cfg, with_sets, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 5 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 60), "the ranks end once their parent is gone"
    continued = train(cfg, with_sets, out, Progress(quiet=True))
    assert continued.choice == whole.choice
    assert weights(continued) == weights(whole)
    fields = [f"{what}.{name}" for what in ("validation_loss", "num_validation_tokens") for name in NAMES]
    assert [[row.get(field) for field in fields] for row in metrics(out)] == [
        [row.get(field) for field in fields] for row in metrics(undisturbed)
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "settings",
    [
        {"fsdp": FsdpConfig(version=1)},
        {"fsdp": FsdpConfig(cpu_offload_params=True)},
        {"context_parallel": 2, "max_tokens_per_gpu": 128},
        {"attention": Attention.sdpa},
        {"num_loader_workers": 1},
        {"lora": LoraConfig(rank=4, alpha=8, dropout=0.1), "launcher": ONE_RANK},
    ],
    ids=["fsdp1", "offload", "context-parallel", "padded", "workers", "lora"],
)
def test_however_it_is_trained_a_set_has_the_loss_of_the_saved_model(
    settings: dict[str, Any], with_sets: TrainInputs, tmp_path: Path
) -> None:
    check_by_hand(trained(tmp_path, with_sets, num_epochs=1, max_steps=2, **settings), with_sets)
