"""Held-out sets that are validated while a training goes on: their losses, what they choose, what they don't touch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.merged_adapters import merged
from sft.artifacts import ChosenStep, DatasetArtifact, TokenizedArtifact
from sft.config.schema import (
    Attention,
    BaseQuantization,
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
from sft.stages.training_task import TrainInputs
from tests.support import nf4
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


@pytest.fixture(scope="module")
def with_sets(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    """The training with sets, labelled in one go."""
    folder, pairs = tmp_path_factory.mktemp("sets"), [pair for rows in ROWS.values() for pair in rows]
    (tokens := folder / "tokens").mkdir()
    with (folder / "eval.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in pairs:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    counts = dict.fromkeys(("num_train", "num_rejected", "num_duplicates", "num_unused"), 0)
    num_rows = {"num_rows": len(pairs), "num_eval": len(pairs)}
    data = DatasetArtifact(root=folder, source="", source_version="", **num_rows, **counts)
    own = TokenizeInputs(dataset=data, model=train_inputs.model, is_validated=True)
    made = tokenize(CONFIG, own, tokens, Progress(quiet=True))
    lines, sets = iter(made.data_file.read_text(encoding="utf-8").splitlines(keepends=True)), {}
    for name, rows in ROWS.items():
        (root := folder / name).mkdir()
        (root / "data.jsonl").write_text("".join(next(lines) for _ in rows), encoding="utf-8")
        sets[name] = replace(made, root=root, num_samples=len(rows))
    return replace(train_inputs, validated=sets)


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


def check_by_hand(row: Mapping[str, Any], model_dir: Path, inputs: TrainInputs) -> None:
    for name, (summed, count) in by_hand(model_dir, inputs.validated).items():
        assert row[f"num_validation_tokens.{name}"] == count
        assert row[f"validation_loss.{name}"] == pytest.approx(summed / count, abs=CLOSE)


@pytest.mark.long
def test_split_and_sets_are_told_apart_and_change_no_bit_of_the_training(
    with_sets: TrainInputs, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    settings = {"validation_split": 0.1, "validation_frequency": 4, "max_steps": 6, "launcher": ONE_RANK}
    settings["neftune_alpha"] = 5.0  # draws random numbers in each step
    settings["env"] = {"OMP_NUM_THREADS": "1"}  # two that share a busy machine wait for each other
    both = trained(tmp_path / "both", with_sets, **settings)
    alone = trained(tmp_path / "alone", train_inputs, **settings)
    assert weights(both) == weights(alone)
    assert curve(both.root) == curve(alone.root)
    rows, others = metrics(both.root), metrics(alone.root)
    assert [row["step"] for row in rows if "validation_loss.alike" in row] == [4, 6]
    assert [row["step"] for row in others if "validation_loss" in row] == [4]
    for name in ("validation_loss", "num_validation_tokens"):
        assert rows[3][name] == others[3][name]
    check_by_hand(rows[-1], both.model_dir, with_sets)
    assert rows[-1]["num_validation_tokens"] == others[3]["num_validation_tokens"]


@pytest.mark.long
def test_with_a_base_in_4_bits_they_are_those_of_the_4_bit_model_with_its_adapter(
    with_sets: TrainInputs, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(rank=4, alpha=8, dropout=0.0, quantize=BaseQuantization.nf4)
    settings: dict[str, Any] = {"learning_rate": 3e-2, "max_steps": 3, "launcher": ONE_RANK}
    made = trained(tmp_path / "made", with_sets, lora=lora, **settings)
    base = AutoModelForCausalLM.from_pretrained(with_sets.model.model_dir, dtype="auto").float()
    for name, weight in base.named_parameters():
        if "_proj.weight" in name:
            weight.data = weight.new_tensor(nf4.widened(weight.detach().numpy())[0])
    in_4_bits, _ = merged(base, made.root / "adapter", 1.0)
    in_4_bits.save_pretrained(tmp_path / "in 4 bits")
    check_by_hand(metrics(made.root)[-1], tmp_path / "in 4 bits", with_sets)
    whole = {name: summed / count for name, (summed, count) in by_hand(made.model_dir, with_sets.validated).items()}
    assert any(abs(metrics(made.root)[-1][f"validation_loss.{name}"] - whole[name]) > 1e-4 for name in whole)


def choosing(name: str, **settings: Any) -> TrainingConfig:
    return changed(
        validation_sets=list(NAMES),
        validation_frequency=2,
        num_epochs=1,
        save_dtype=SaveDtype.fp32,
        select=SelectConfig(metric=f"validation_loss.{name}"),
        **settings,
    )


@pytest.mark.long
def test_a_set_that_gets_worse_stops_the_training_and_chooses_the_step_with_the_losses_of_its_model_on_two_ranks(
    with_sets: TrainInputs, tmp_path: Path
) -> None:
    cfg = choosing("other", early_stopping=EarlyStoppingConfig(patience=1))
    made = train(cfg, with_sets, tmp_path, Progress(quiet=True))
    rows = [row for row in metrics(tmp_path) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    first, second = rows
    assert second["validation_loss.other"] > first["validation_loss.other"]
    assert second["validation_loss.alike"] < first["validation_loss.alike"]  # which would have gone on
    assert made.choice == ChosenStep(
        step=2,
        metric="validation_loss.other",
        value=first["validation_loss.other"],
        num_steps=4,
        num_planned=7,
        stopped_early=True,
        num_models=2,
        sets=("other",),
    )
    check_by_hand(first, made.model_dir, with_sets)
    expected = by_hand(made.model_dir, with_sets.validated).values()
    count = sum(count for _, count in expected)
    assert first["num_validation_tokens"] == count
    assert first["validation_loss"] == pytest.approx(sum(summed for summed, _ in expected) / count, abs=CLOSE)


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
    made = trained(tmp_path, with_sets, max_steps=2, warmup_steps=0, **settings)
    check_by_hand(metrics(tmp_path)[-1], made.model_dir, with_sets)
