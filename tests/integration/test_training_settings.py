"""Settings of a training that change what is computed: each really does, and those that must not do not."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.layout import PROFILE
from sft.adapters.instructlab.rank.row_split import validated_samples
from sft.artifacts import ROWS_NAME, CheckpointArtifact
from sft.config.schema import (
    FsdpConfig,
    GradientCheckpointing,
    LauncherConfig,
    LoraConfig,
    LoraInit,
    Optimizer,
    ParameterGroupConfig,
    Precision,
    ProfileConfig,
    SaveDtype,
    ShardingStrategy,
    Tracker,
    TrackingConfig,
)
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import (
    BATCH,
    CONFIG,
    STEPS_PER_EPOCH,
    changed,
    curve,
    metrics,
    running,
    steps_done,
    train,
    wait_for,
    weights,
)

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LORA = LoraConfig(rank=4, alpha=8, dropout=0.1)
PISSA = LoraConfig(rank=4, alpha=8, dropout=0.1, init=LoraInit.pissa, use_rslora=True, use_dora=True)


def made(folder: Path, inputs: TrainInputs, **settings: Any) -> CheckpointArtifact:
    folder.mkdir(exist_ok=True)
    return train(changed(**settings), inputs, folder, Progress(quiet=True))


def losses(root: Path) -> list[float]:
    return [row["loss"] for row in metrics(root)]


@pytest.mark.exhaustive
@pytest.mark.parametrize("strategy", ShardingStrategy)
def test_every_strategy_gives_the_same_curve(
    strategy: ShardingStrategy, train_inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    offload = strategy is not ShardingStrategy.FULL_SHARD  # that one is `trained` without
    made(tmp_path / "out", train_inputs, fsdp=FsdpConfig(sharding_strategy=strategy, cpu_offload_params=offload))
    assert losses(tmp_path / "out") == pytest.approx(losses(trained.root), abs=1e-3)


@pytest.mark.exhaustive
def test_one_rank_without_sharding_gives_the_same_curve_as_two_with(
    train_inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    made(tmp_path / "one", train_inputs, launcher=LauncherConfig(procs_per_worker=1))
    assert losses(tmp_path / "one") == pytest.approx(losses(trained.root), abs=1e-3)


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_a_checkpoint_in_bf16_is_trained_as_the_same_weights_in_fp32_are(
    precision: Precision, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    trained = {}
    for stored in (torch.bfloat16, torch.float32):
        folder = tmp_path / str(stored)
        shutil.copytree(train_inputs.model.model_dir, folder / "base")
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        base.to(stored).save_pretrained(folder / "base")
        inputs = replace(train_inputs, model=replace(train_inputs.model, root=folder / "base"))
        checkpoint = made(
            folder / "out",
            inputs,
            precision=precision,
            save_dtype=SaveDtype.fp32,
            num_epochs=1,
            learning_rate=1e-4,  # its steps vanish where weights are bf16
            launcher=LauncherConfig(procs_per_worker=1),
        )
        config = json.loads((checkpoint.model_dir / "config.json").read_text())
        assert config["dtype"] == "float32"
        trained[stored] = weights(checkpoint), losses(checkpoint.root)
    assert trained[torch.bfloat16] == trained[torch.float32]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "strategy",
    [ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD],
)
def test_lora_keeps_its_adapter_beside_a_merged_model_that_answers_the_same(
    strategy: ShardingStrategy, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    checkpoint = made(
        tmp_path / "lora",
        train_inputs,
        lora=LORA,
        learning_rate=3e-2,
        gradient_checkpointing=GradientCheckpointing.selective,
        fsdp=FsdpConfig(sharding_strategy=strategy),
    )
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    note = json.loads((checkpoint.root / "logs" / "adapters.json").read_text())
    assert note["adapted"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    adapter = checkpoint.root / "adapter"
    facts = json.loads((adapter / "adapter_config.json").read_text())
    assert (facts["r"], facts["lora_alpha"], facts["base_model_name_or_path"]) == (4, 8, "scratch")
    assert sorted(facts["target_modules"])[:2] == ["down_proj", "gate_proj"]
    base = AutoModelForCausalLM.from_pretrained(train_inputs.model.model_dir)
    merged = AutoModelForCausalLM.from_pretrained(checkpoint.model_dir)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        after = merged(ids).logits
    assert (before - after).abs().max() > 0.1
    assert torch.allclose(adapted, after, atol=1e-4)
    assert not (checkpoint.model_dir / "adapter").exists()
    assert losses(checkpoint.root)[-1] < losses(checkpoint.root)[0] - 0.25  # it levels off 0.3 below; dropout moves it


@pytest.mark.exhaustive
@pytest.mark.parametrize("lora", [LORA, PISSA])
def test_a_preempted_lora_run_goes_on_to_the_same_weights(
    lora: LoraConfig, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    undisturbed = made(tmp_path / "lora", train_inputs, lora=lora)
    out = tmp_path / "out"
    out.mkdir()
    cfg = changed(lora=lora)
    with running(cfg, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= STEPS_PER_EPOCH + 2, 120)
        parent.terminate()
        assert parent.wait(60) == 75
    continued = train(cfg, train_inputs, out, Progress(quiet=True))
    assert curve(continued.root) == curve(undisturbed.root)  # dropout included
    assert weights(continued) == weights(undisturbed)


@pytest.mark.exhaustive
def test_every_kernel_of_a_training_on_cpus_is_deterministic_and_the_weights_are_those_without_asking(
    train_inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    asked = train(changed(deterministic=True), train_inputs, out, Progress(quiet=True))
    assert weights(asked) == weights(trained)


@pytest.mark.long
def test_a_layer_that_the_model_has_not_is_named(train_inputs: TrainInputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training.lora.target_modules: the model has no wrong") as caught:
        made(tmp_path / "out", train_inputs, lora=LoraConfig(rank=4, target_modules=["q_proj", "wrong"]))
    assert "q_proj" in str(caught.value.fix)


@pytest.mark.exhaustive
def test_validation_scores_samples_that_are_not_trained_with_the_same_loss_on_any_number_of_ranks(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    found = []
    for ranks in (1, 2):
        checkpoint = made(
            tmp_path / str(ranks),
            train_inputs,
            num_epochs=1,
            validation_split=0.25,
            validation_frequency=2,
            launcher=LauncherConfig(procs_per_worker=ranks),
        )
        rows = metrics(checkpoint.root)
        assert rows[-1]["samples_seen"] == 150
        assert [row["step"] for row in rows if "validation_loss" in row] == [2, 4]
        found.append([row["validation_loss"] for row in rows if "validation_loss" in row])
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert 1 < found[0][-1] < 6  # as the training loss of these steps
    assert sum(row["num_loss_tokens"] for row in rows) + rows[1]["num_validation_tokens"] == (
        train_inputs.tokenized.num_loss_tokens
    )


@pytest.mark.long
def test_of_a_row_that_became_several_samples_all_are_validated_or_all_train(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    shutil.copytree(train_inputs.tokenized.root, tmp_path / "tokens")
    tokenized = replace(train_inputs.tokenized, root=tmp_path / "tokens")
    samples = [json.loads(line) for line in tokenized.data_file.read_text().splitlines()]
    rows = [place // 7 for place in range(len(samples))]
    (tokenized.root / ROWS_NAME).write_text("".join(f"{row}\n" for row in rows))
    out = tmp_path / "out"
    checkpoint = made(out, replace(train_inputs, tokenized=tokenized), num_epochs=1, validation_split=0.1)
    last = metrics(checkpoint.root)[-1]
    validated = validated_samples(rows, math.ceil(0.1 * len(rows)), CONFIG.seed)
    assert 0 < len(validated) <= 0.1 * len(rows)
    assert last["samples_seen"] == len(rows) - len(validated)
    counts = [len(sample["labels"]) - sample["labels"].count(-100) for sample in samples]
    assert last["num_validation_tokens"] == sum(counts[place] for place in validated)


@pytest.mark.exhaustive
def test_models_on_the_way_stay_where_a_recipe_asks_for_them_and_trackers_see_every_step_once(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    cfg = changed(
        num_epochs=2,
        checkpoint_at_epoch=True,
        save_samples=150,
        neftune_alpha=5.0,
        profile=ProfileConfig(first_step=STEPS_PER_EPOCH + 1, num_steps=1),
        tracking=TrackingConfig(trackers=list(Tracker), project="numbers"),
        env={"MLFLOW_TRACKING_URI": database, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)},
    )
    with running(cfg, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= 3, 120)
        parent.terminate()
        assert parent.wait(60) == 75
    checkpoint = train(cfg, train_inputs, out, Progress(quiet=True))
    kept = sorted(path.name for path in (checkpoint.root / "checkpoints").iterdir())
    assert kept == ["samples_160", "samples_200", "samples_328"]  # the first step past 150 and 300, and the epoch
    assert 150 < 5 * BATCH == 160
    assert checkpoint.num_steps == 2 * STEPS_PER_EPOCH

    with gzip.open(checkpoint.root / "logs" / PROFILE, "rt", encoding="utf-8") as trace:
        names = {event.get("name", "") for event in json.load(trace)["traceEvents"]}
    assert {"aten::_fused_adamw_", "aten::mm"} <= names
    assert any("all_gather" in name for name in names)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(checkpoint.root / "logs" / "tensorboard"))
    events.Reload()
    expected = [(row["step"], pytest.approx(row["loss"])) for row in metrics(checkpoint.root)]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == expected

    import mlflow

    client = mlflow.MlflowClient(database)
    (run,) = client.search_runs([client.get_experiment_by_name("numbers").experiment_id])
    points = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert sorted(points.items()) == expected
    assert run.data.params["num_epochs"] == "2"

    wandb_runs = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert len(wandb_runs) == 2  # before and after the stop, of one id
    assert len({name.rpartition("-")[2] for name in wandb_runs}) == 1


@pytest.mark.exhaustive
def test_what_is_frozen_stays_the_base_models_and_another_optimizer_resumes_to_the_same_bits(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    settings: dict[str, Any] = {
        "num_epochs": 2,
        "freeze": ["layers.0"],
        "optimizer": Optimizer.muon,
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
        "parameter_groups": {"ends": ParameterGroupConfig(match="embeddings", learning_rate=1e-3)},
    }
    undisturbed = made(tmp_path / "whole", train_inputs, **settings)
    base = load_file(train_inputs.model.model_dir / "model.safetensors")
    tuned = load_file(undisturbed.model_dir / "model.safetensors")
    same = {name for name, weight in tuned.items() if weight.equal(base[name].to(weight.dtype))}
    assert same == {name for name in tuned if name.startswith("model.layers.0.")}
    assert losses(undisturbed.root)[-1] < losses(undisturbed.root)[0] - 0.3
    (out := tmp_path / "out").mkdir()
    with running(changed(**settings), train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= STEPS_PER_EPOCH + 1 or parent.poll() is not None, 200)
        parent.kill()
    continued = train(changed(**settings), train_inputs, out, Progress(quiet=True))
    assert curve(out) == curve(undisturbed.root)
    assert weights(continued) == weights(undisturbed)
