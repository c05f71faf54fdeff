"""Settings of a recipe as the library gets them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from sft.adapters.instructlab.settings import MainArgs
from sft.adapters.os import machine
from sft.artifacts import ModelArtifact, TokenizedArtifact
from sft.config.schema import FsdpConfig, LauncherConfig, LoraConfig, LrScheduler, ShardingStrategy, TrainingConfig
from sft.planning import kernels, precision, resources, step_count
from sft.planning.resources import resolve_resources
from sft.stages import launcher
from sft.stages import train as train_stage
from sft.stages.train import TrainInputs, main_args


def mapped(cfg: TrainingConfig, root: Path) -> MainArgs:
    model = ModelArtifact(root=root / "base", source="scratch", revision="", external_dir=None, num_parameters=None)
    tokens = TokenizedArtifact(root=root, num_rows=1, num_samples=1, num_tokens=9, num_loss_tokens=3, longest_tokens=9)
    inputs = TrainInputs(model=model, tokenized=tokens, resources=resolve_resources(cfg))
    return main_args(cfg, inputs, root / "work")


def test_a_changed_setting_reaches_the_library(tmp_path: Path) -> None:
    cfg = TrainingConfig(
        learning_rate=0.5,
        lr_scheduler=LrScheduler.linear,
        warmup_steps=7,
        weight_decay=0.25,
        max_tokens_per_gpu=123,
        neftune_alpha=5.0,
        validation_split=0.1,
        lora=LoraConfig(rank=8, target_modules=["q_proj"]),
        fsdp=FsdpConfig(sharding_strategy=ShardingStrategy.SHARD_GRAD_OP),
        launcher=LauncherConfig(procs_per_worker=2),
    )
    args = mapped(cfg, tmp_path)
    assert (args.learning_rate, args.lr_scheduler, args.num_warmup_steps) == (0.5, "linear", 7)
    assert (args.adamw_weight_decay, args.max_batch_len) == (0.25, 123)
    assert (args.NEFTune_alpha, args.validation_split) == (5.0, 0.1)
    assert (args.lora_r, args.lora_target_modules) == (8, ("q_proj",))
    assert args.fsdp_sharding_strategy == "SHARD_GRAD_OP"


@pytest.mark.parametrize("runs", [False, True])
def test_liger_is_the_librarys_model_class_and_not_its_flag(
    runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(machine, "runs_liger", lambda: runs)
    monkeypatch.setattr(machine, "c_compiler", lambda: "gcc")
    args = mapped(TrainingConfig(use_liger=True), tmp_path)
    assert args.model_class == ("Liger" if runs else "CausalLM")


def test_every_setting_of_a_training_goes_somewhere(tmp_path: Path) -> None:
    """A setting that neither the library, nor the worker, nor the launch depends on would be silent."""
    source = "".join(map(inspect.getsource, (train_stage, launcher, kernels, precision, resources, step_count)))
    elsewhere = {"max_seq_len", "on_too_long", "train_on", "train_on_reasoning"}  # the tokenize stage
    elsewhere |= {"allow_any_env"}  # checks
    elsewhere |= {"learning_rate"} if "cfg.rate()" in source else set()
    for field in fields(TrainingConfig):
        assert f"cfg.{field.name}" in source or field.name in elsewhere, field.name


def test_the_tokens_at_which_the_base_model_stops_go_along_with_every_model(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "work" / "hf_format"
    for folder in (base, made / "samples_10", made / "samples_20" / "adapter"):
        folder.mkdir(parents=True)
    (base / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')
    train_stage._publish(made / "samples_20", base, tmp_path)
    for model in ("model", "checkpoints/samples_10"):
        assert (tmp_path / model / "generation_config.json").read_text() == '{"eos_token_id": [1, 106]}'
    assert (tmp_path / "adapter").is_dir()
    assert not list(made.iterdir())


def test_a_trained_models_tokenizer_is_the_base_models_to_the_byte(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "work" / "hf_format" / "samples_20"
    given = {
        "tokenizer.json": "its own",
        "tokenizer_config.json": "without extra tokens",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
    }
    saved = {"tokenizer_config.json": "with extra tokens", "special_tokens_map.json": "{}", "config.json": "trained"}
    for folder, files in ((base, {**given, "config.json": "base"}), (made, saved)):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    train_stage._publish(made, base, tmp_path)
    model = tmp_path / "model"
    files = {str(file.relative_to(model)): file.read_text() for file in model.rglob("*") if file.is_file()}
    assert files == {**given, "config.json": "trained"}


def test_weights_can_be_read_by_whoever_can_read_the_rest_of_a_model(tmp_path: Path) -> None:
    made = tmp_path / "work" / "hf_format"
    for folder in (made / "samples_20", made / "samples_20" / "adapter"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "config.json").chmod(0o644)
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "model.safetensors").chmod(0o600)
    train_stage._publish(made / "samples_20", tmp_path, tmp_path)
    for folder in ("model", "adapter"):
        assert (tmp_path / folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
