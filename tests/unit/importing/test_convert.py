"""What single values become: batch, lengths, rates, data, adapters; bounds, contradictions and what is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.errors import ConfigError
from sft.importing.convert import Imported, Told, convert
from sft.importing.recipe_text import text_of
from sft.importing.rows import Kind

AXOLOTL: dict[str, Any] = {"base_model": "org/base", "datasets": [{"path": "org/data", "type": "chat_template"}]}
FACTORY: dict[str, Any] = {"model_name_or_path": "org/base", "stage": "sft", "dataset": "mine", "template": "qwen"}
TRL: dict[str, Any] = {"model_name_or_path": "org/base", "dataset_name": "org/data"}
TUNE: dict[str, Any] = {
    "model": {"_component_": "torchtune.models.llama3.lora_llama3_8b", "lora_rank": 4},
    "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": "${where}/base"},
    "where": "/models",
    "dataset": {"_component_": "torchtune.datasets.chat_dataset", "source": "org/data"},
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": "2e-5"},
}


def read(folder: Path, base: dict[str, Any], devices: int = 1, **more: Any) -> Imported:
    file = folder / "theirs.yaml"
    file.write_text(json.dumps({**base, **more}), encoding="utf-8")
    return convert(file, devices=devices)


def told(found: Imported, key: str) -> Told:
    [one] = [one for one in found.told if one.key == key]
    return one


@pytest.mark.parametrize(
    ("base", "more", "key"),
    [
        (AXOLOTL, {"micro_batch_size": 3, "gradient_accumulation_steps": 5}, "micro_batch_size"),
        (FACTORY, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5}, "per_device_train_batch_size"),
        (TRL, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5}, "per_device_train_batch_size"),
        (TUNE, {"batch_size": 3, "gradient_accumulation_steps": 5}, "batch_size"),
    ],
)
def test_a_batch_is_of_all_devices(base: dict[str, Any], more: dict[str, int], key: str, tmp_path: Path) -> None:
    found = read(tmp_path, base, devices=8, **more)
    assert found.settings["training.effective_batch_size"] == 3 * 5 * 8
    assert told(found, key).found.kind is Kind.DIFFERS
    assert "x 8 devices" in told(found, key).found.note


@pytest.mark.parametrize(
    ("base", "more", "wanted"),
    [
        (AXOLOTL, {"sequence_len": 100}, {"training.max_seq_len": 101, "training.on_too_long": "drop"}),
        (AXOLOTL, {"sequence_len": 9, "excess_length_strategy": "truncate"}, {"training.on_too_long": "truncate"}),
        (AXOLOTL, {"sequence_len": 9, "excess_length_strategy": "raise"}, {"training.on_too_long": "error"}),
        (FACTORY, {"cutoff_len": 100}, {"training.max_seq_len": 101, "training.on_too_long": "truncate"}),
        (AXOLOTL, {"warmup_steps": 0.25}, {"training.schedule.warmup_ratio": 0.25}),
        (AXOLOTL, {"warmup_steps": 20}, {"training.warmup_steps": 20}),
        (AXOLOTL, {}, {"training.schedule.warmup_ratio": 0.03, "training.max_seq_len": 513}),
        (
            AXOLOTL,
            {"cosine_min_lr_ratio": 0.1, "learning_rate": "1e-4", "lr_scheduler": "cosine"},
            {"training.lr_scheduler": "cosine_with_min_lr", "training.schedule.min_learning_rate": pytest.approx(1e-5)},
        ),
        (AXOLOTL, {"train_on_inputs": True}, {"training.train_on": "everything"}),
        (AXOLOTL, {"max_grad_norm": 0}, {"training.max_grad_norm": 1e30}),
        (AXOLOTL, {"deepspeed": "x/zero2_offload.json"}, {"training.fsdp.sharding_strategy": "SHARD_GRAD_OP"}),
        (AXOLOTL, {"adapter": "lora", "lora_r": 4, "lora_target_modules": ["q_proj"]}, {"training.lora.rank": 4}),
        (
            AXOLOTL,
            {"val_set_size": 0.1, "early_stopping_patience": 3},
            {"training.select.metric": "validation_loss", "training.early_stopping.patience": 3},
        ),
        (FACTORY, {"use_muon": True, "mask_history": True}, {"training.optimizer": "muon"}),
        (
            FACTORY,
            {"pissa_init": True, "use_dora": True, "additional_target": "embed_tokens,lm_head"},
            {
                "training.lora.init": "pissa_niter_16",
                "training.lora.use_dora": True,
                "training.lora.modules_to_save": ["embed_tokens", "lm_head"],
            },
        ),
        (AXOLOTL, {"lora_model_dir": "old"}, {"model.adapter": "old", "model.adapter_use": "continued"}),
        (FACTORY, {"lora_rank": 6}, {"training.lora.rank": 6, "training.lora.alpha": 12}),
        (FACTORY, {"val_size": 0.2, "eval_steps": 7}, {"training.validation_frequency": 7}),
        (
            TRL,
            {"lr_scheduler_kwargs": {"num_cycles": 3}, "lr_scheduler_type": "cosine_with_restarts"},
            {"training.schedule.cycles": 3},
        ),
        (TRL, {"dataset_config": "main"}, {"dataset.uri": "hf://org/data:main", "dataset.split": "train"}),
        (
            TRL,
            {"eval_strategy": "epoch", "dataset_test_split": "dev"},
            {
                "eval.holdouts.test.uri": "hf://org/data",
                "eval.holdouts.test.split": "dev",
                "training.validation_sets": ["test"],
            },
        ),
        (
            TRL,
            {"eval_strategy": "steps", "eval_steps": 50},
            {"eval.holdouts.test.split": "test", "training.validation_frequency": 50},
        ),
        (TRL, {"dataset_test_split": "dev"}, {"eval.holdouts.test.uri": None, "training.validation_sets": None}),
        (TUNE, {"max_steps_per_epoch": 10, "epochs": 3}, {"training.max_steps": 30}),
        (TUNE, {}, {"model.name_or_path": "/models/base", "training.beta2": 0.999, "training.learning_rate": 2e-5}),
    ],
)
def test_a_value_becomes(base: dict[str, Any], more: dict[str, Any], wanted: dict[str, Any], tmp_path: Path) -> None:
    settings = read(tmp_path, base, **more).settings
    assert {key: settings.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"path": "org/a", "type": "alpaca"}, {"uri": "hf://org/a", "format": "alpaca"}),
        ({"path": "org/a", "name": "en", "revision": "v1", "type": "sharegpt"}, {"uri": "hf://org/a:en@v1"}),
        ({"path": "./rows.jsonl", "type": "chat_template"}, {"uri": "./rows.jsonl", "format": "messages"}),
        ({"path": "json", "data_files": "x/rows.jsonl", "type": "alpaca"}, {"uri": "x/rows.jsonl"}),
        ({"path": "s3://bucket/a.parquet", "type": "alpaca"}, {"uri": "s3://bucket/a.parquet"}),
        (
            {
                "path": "org/a",
                "type": "chat_template",
                "field_messages": "turns",
                "message_property_mappings": {"role": "from", "content": "value"},
            },
            {"format": "conversations", "columns.messages": "turns"},
        ),
        ({"path": "org/a", "type": "alpaca", "split": "train[:20%]"}, {"split": "train"}),
    ],
)
def test_an_entry_of_axolotls_datasets(entry: dict[str, Any], wanted: dict[str, str], tmp_path: Path) -> None:
    alone = read(tmp_path, AXOLOTL, datasets=[entry]).settings
    assert {key: alone.get(f"dataset.{key}") for key in wanted} == wanted
    two = read(tmp_path, AXOLOTL, datasets=[{"path": "org/other", "type": "alpaca"}, entry]).settings
    names = [key.split(".")[2] for key in two if key.startswith("dataset.sources.") and key.endswith(".uri")]
    assert {key: two.get(f"dataset.sources.{names[1]}.{key}") for key in wanted} == wanted


def test_dataset_info_says_where_names_are(tmp_path: Path) -> None:
    info = {
        "mine": {"file_name": "mine.json", "columns": {"prompt": "ask", "response": "say"}, "num_samples": 5},
        "chats": {
            "hf_hub_url": "org/chats",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "pictures"},
            "tags": {"role_tag": "role", "content_tag": "content"},
        },
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    found = read(tmp_path, FACTORY, dataset="mine,chats,unknown", interleave_probs="0.5,0.3,0.2")
    wanted = {
        "mine.uri": str(tmp_path / "mine.json"),
        "mine.format": "prompt_completion",
        "mine.columns.prompt": "ask",
        "mine.columns.completion": "say",
        "mine.max_samples": 5,
        "mine.weight": 0.5,
        "chats.uri": "hf://org/chats",
        "chats.format": "messages",
        "unknown.uri": "???",
    }
    assert {key: found.settings.get(f"dataset.sources.{key}") for key in wanted} == wanted
    assert "columns.images" in told(found, "dataset").found.note
    assert found.to_fill_in == ["dataset.sources.unknown.uri"]


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        ({"weight_decay": -1}, "weight_decay", "training.weight_decay=-1.0: must be at least 0 and at most 1000"),
        ({"learning_rate": "quick"}, "learning_rate", "training.learning_rate: "),
        ({"seed": 2**40}, "seed", "must be at least 0 and at most 4294967295"),
        ({"num_epochs": 1e9}, "num_epochs", "at most 1000000"),
        ({"base_model": "${oc.env:HOME}"}, "base_model", "write the value itself"),
        ({"adam_beta1": 0.8, "adam_beta2": 1.0}, "adam_beta2", "below 1"),
        ({"optimizer": "shampoo"}, "optimizer", "adafactor, lion and muon"),
        ({"lr_scheduler": "rex"}, "lr_scheduler", "no such schedule"),
        ({"micro_batch_sise": 4}, "micro_batch_sise", "is micro_batch_size meant?"),
        ({"lora_target_modules": "model.layers.[\\d]+.q", "adapter": "lora"}, "lora_target_modules", "not patterns"),
        ({"fp16": True}, "fp16", "bf16 or fp32"),
        ({"val_set_size": 100}, "val_set_size", "a share of the rows"),
        ({"bf16": True, "float32": True}, "float32", "contradicts bf16"),
        ({"load_in_4bit": True}, "load_in_4bit", "a base model in 4 bits is for adapters"),
        ({"load_in_8bit": True}, "load_in_8bit", "8 bits"),
    ],
)
def test_what_does_not_fit_is_named_and_not_taken(more: dict[str, Any], key: str, says: str, tmp_path: Path) -> None:
    found = read(tmp_path, AXOLOTL, **more)
    assert told(found, key).found.kind is Kind.ABSENT
    assert says in told(found, key).found.note
    assert key not in [one for keys in found.whence.values() for one in keys]


@pytest.mark.parametrize(
    ("base", "more"),
    [
        (AXOLOTL, {"rl": "dpo"}),
        (AXOLOTL, {"reward_model": True}),
        (FACTORY, {"stage": "rm"}),
        (TRL, {"beta": 0.1}),
        (TRL, {"reward_funcs": ["accuracy"]}),
        (TUNE, {"loss": {"_component_": "torchtune.rlhf.loss.DPOLoss"}}),
        (TUNE, {"teacher_model": {"_component_": "x"}}),
    ],
)
def test_another_training_is_refused(base: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="supervised fine-tuning"):
        read(tmp_path, base, **more)


def test_what_is_off_there_is_not_missing_here(tmp_path: Path) -> None:
    found = read(tmp_path, AXOLOTL, load_in_8bit=False, fp8=None, qat={})
    assert {told(found, key).found.kind for key in ("load_in_8bit", "fp8", "qat")} == {Kind.TAKEN}


@pytest.mark.parametrize(
    ("base", "more", "kind"),
    [
        (AXOLOTL, {"adapter": "qlora", "load_in_4bit": True, "lora_r": 8}, "nf4_double_quant"),
        (FACTORY, {"finetuning_type": "lora", "quantization_bit": 4}, "nf4_double_quant"),
        (FACTORY, {"finetuning_type": "lora", "quantization_bit": 4, "double_quantization": False}, "nf4"),
        (FACTORY, {"finetuning_type": "lora", "quantization_bit": 8}, None),
        (FACTORY, {"finetuning_type": "lora", "quantization_bit": 4, "quantization_method": "hqq"}, None),
        (TRL, {"use_peft": True, "load_in_4bit": True}, "nf4"),
        (TRL, {"use_peft": True, "load_in_4bit": True, "use_bnb_nested_quant": True}, "nf4_double_quant"),
        (TRL, {"use_peft": True, "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, None),
        (
            TUNE,
            {"model": {"_component_": "torchtune.models.llama3.qlora_llama3_8b", "lora_rank": 4}},
            "nf4_double_quant",
        ),
    ],
)
def test_a_base_in_4_bits_is_the_same_here(
    base: dict[str, Any], more: dict[str, Any], kind: str | None, tmp_path: Path
) -> None:
    assert read(tmp_path, base, **more).settings.get("training.lora.quantize") == kind


@pytest.mark.parametrize(
    ("base", "more", "wanted"),
    [
        (
            {"base_model": "org/base"},
            {"pretraining_dataset": [{"path": "org/web", "name": "en", "text_column": "body"}], "sequence_len": 100},
            {
                "dataset.uri": "hf://org/web:en",
                "dataset.format": "text",
                "dataset.columns.text": "body",
                "training.max_seq_len": 101,
                "training.on_too_long": None,
            },
        ),
        (
            {"base_model": "org/base"},
            {"datasets": [{"path": "org/web", "type": "completion", "field": "body"}]},
            {"dataset.format": "text", "dataset.columns.text": "body", "training.on_too_long": None},
        ),
        (FACTORY, {"stage": "pt"}, {"dataset.format": "text", "dataset.uri": "???", "training.on_too_long": None}),
        (
            TUNE,
            {"dataset": {"_component_": "torchtune.datasets.text_completion_dataset", "source": "a/b", "column": "c"}},
            {"dataset.format": "text", "dataset.columns.text": "c", "dataset.uri": "hf://a/b"},
        ),
        (TRL, {"dataset_text_field": "body"}, {"dataset.format": "text", "dataset.columns.text": "body"}),
        (
            AXOLOTL,
            {"test_datasets": [{"path": "org/held", "type": "alpaca", "split": "test"}]},
            {
                "eval.holdouts.test.uri": "hf://org/held",
                "eval.holdouts.test.split": "test",
                "eval.holdouts.test.format": "alpaca",
                "training.validation_sets": ["test"],
            },
        ),
        (FACTORY, {"eval_dataset": "a,b"}, {"eval.holdouts.a.uri": "???", "training.validation_sets": None}),
        (
            FACTORY,
            {"eval_dataset": "a,b", "eval_strategy": "steps", "eval_steps": 7, "eval_on_each_dataset": True}
            | {"load_best_model_at_end": True, "metric_for_best_model": "eval_b_loss"},
            {
                "eval.holdouts.b.uri": "???",
                "training.validation_sets": ["a", "b"],
                "training.validation_frequency": 7,
                "training.select.metric": "validation_loss.b",
            },
        ),
        (
            AXOLOTL,
            {"test_datasets": [{"path": "org/a"}, {"path": "org/b"}], "eval_steps": 5, "early_stopping_patience": 3},
            {
                "training.validation_sets": ["test_1", "test_2"],
                "training.validation_frequency": 5,
                "training.select.metric": "validation_loss",
                "training.early_stopping.patience": 3,
            },
        ),
        (
            AXOLOTL,
            {"test_datasets": [{"path": "org/a"}], "eval_strategy": "no", "load_best_model_at_end": True},
            {"training.validation_sets": None, "training.select.metric": None},
        ),
        (
            TUNE,
            {"dataset_val": {"_component_": "torchtune.datasets.alpaca_cleaned_dataset"}, "run_val_every_n_steps": 9},
            {"training.validation_sets": ["test"], "training.validation_frequency": 9},
        ),
        (FACTORY, {"dataset_dir": "ONLINE", "dataset": "org/data"}, {"dataset.uri": "hf://org/data"}),
        (
            TUNE,
            {"dataset_val": {"_component_": "torchtune.datasets.alpaca_cleaned_dataset"}},
            {
                "eval.holdouts.test.uri": "hf://yahma/alpaca-cleaned",
                "training.train_on": None,
                "training.validation_sets": None,
            },
        ),
        (
            TUNE,
            {"model": {"_component_": "torchtune.models.llama3.lora_llama3_8b", "lora_attn_modules": ["q_proj"]}},
            {"training.lora.rank": 8, "training.lora.alpha": 16, "training.lora.dropout": 0.0},
        ),
        (
            TUNE,
            {"model": {"_component_": "torchtune.models.llama3.qdora_llama3_8b", "lora_attn_modules": ["q_proj"]}},
            {"training.lora.rank": 8, "training.lora.use_dora": True},
        ),
        (TRL, {"use_peft": True}, {"training.lora.target_modules": ["q_proj", "v_proj"]}),
        (
            TRL,
            {"warmup_steps": 10, "warmup_ratio": 0.1},
            {"training.warmup_steps": 10, "training.schedule.warmup_ratio": None},
        ),
        (
            AXOLOTL,
            {"wandb_project": "mine", "use_tensorboard": True},
            {"training.tracking.trackers": ["wandb", "tensorboard"], "training.tracking.project": "mine"},
        ),
        (AXOLOTL, {"bf16": "false"}, {"training.precision": None}),
    ],
)
def test_raw_text_held_out_sets_and_unsaid_defaults(
    base: dict[str, Any], more: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    settings = read(tmp_path, base, **more).settings
    assert {key: settings.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("base", "more", "key"),
    [
        (AXOLOTL, {"micro_batch_size": "inf"}, "micro_batch_size"),
        (AXOLOTL, {"micro_batch_size": 1.5}, "micro_batch_size"),
        (AXOLOTL, {"optimizer": ["adamw"]}, "optimizer"),
        (FACTORY, {"lora_rank": "1e400"}, "lora_rank"),
        (FACTORY, {"mix_strategy": ["concat"]}, "mix_strategy"),
        (FACTORY, {"report_to": [{"a": 1}]}, "report_to"),
        (TUNE, {"optimizer": {"_component_": ["x"]}}, "optimizer._component_"),
        (TUNE, {"model": {"lora_attn_modules": [["q_proj"]]}}, "model.lora_attn_modules"),
        (AXOLOTL, {"wandb_project": "hf_" + "a" * 34}, "wandb_project"),
        (AXOLOTL, {"chat_template_kwargs": {"api_key": "abcdefgh"}}, "chat_template_kwargs"),
        (AXOLOTL, {"base_model": "https://user:password@host/model"}, "base_model"),
    ],
)
def test_a_value_of_another_kind_or_a_secret_is_named_and_not_taken(
    base: dict[str, Any], more: dict[str, Any], key: str, tmp_path: Path
) -> None:
    assert told(read(tmp_path, base, **more), key).found.kind is Kind.ABSENT


def test_datasets_get_names_of_their_own(tmp_path: Path) -> None:
    paths = ["x/a", "y/a", "z/a_2"]
    found = read(tmp_path, AXOLOTL, datasets=[{"path": path, "type": "alpaca"} for path in paths])
    uris = [value for key, value in found.settings.items() if key.endswith(".uri")]
    assert uris == [f"hf://{path}" for path in paths]


def test_a_folder_that_is_there_goes_before_a_dataset_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path, AXOLOTL).settings["dataset.uri"] == "./org/data"
    windows = read(tmp_path, AXOLOTL, datasets=[{"path": r"C:\data\rows", "type": "alpaca"}])
    assert windows.settings["dataset.uri"] == r"C:\data\rows"


def test_dataset_info_says_columns_tags_and_revision(tmp_path: Path) -> None:
    info = {
        "plain": {
            "hf_hub_url": "org/a",
            "revision": "v2",
            "columns": {"prompt": "instruction", "response": "output"},
        },
        "turns": {"file_name": "t.json", "formatting": "sharegpt", "tags": {"role_tag": "who", "content_tag": "value"}},
        "web": {"file_name": "w.json", "columns": {"prompt": "body"}},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    plain = read(tmp_path, FACTORY, dataset="plain").settings
    assert (plain["dataset.uri"], plain["dataset.format"]) == ("hf://org/a@v2", "prompt_completion")
    assert "tags.role_tag" in told(read(tmp_path, FACTORY, dataset="turns"), "dataset").found.note
    web = read(tmp_path, FACTORY, dataset="web", stage="pt").settings
    assert (web["dataset.format"], web["dataset.columns.text"]) == ("text", "body")


CHAT, ALPACA = {"_component_": "chat_dataset", "source": "org/chat"}, {"_component_": "alpaca_dataset"}


@pytest.mark.parametrize(
    ("base", "entries", "key", "trains", "others"),
    [
        (AXOLOTL, [{"path": "org/a", "roles_to_train": []}, {"path": "org/b"}], "roles_to_train", "everything", "b"),
        (AXOLOTL, [{"path": "org/a"}, {"path": "org/b", "roles_to_train": []}], "roles_to_train", "everything", "a"),
        (TUNE, [ALPACA, CHAT], "_component_", "everything", "chat"),
        (TUNE, [CHAT, {**ALPACA, "train_on_input": True}], "train_on_input", "everything", "chat"),
        (TUNE, [{**CHAT, "new_system_prompt": "Be brief."}, ALPACA], "new_system_prompt", "everything", "data"),
    ],
)
def test_what_one_dataset_says_and_holds_for_all_here_is_said(
    base: dict[str, Any], entries: list[dict[str, Any]], key: str, trains: str, others: str, tmp_path: Path
) -> None:
    name = "datasets" if base is AXOLOTL else "dataset"
    found = read(tmp_path, base, **{name: entries})
    assert found.settings["training.train_on"] == trains
    notes = [
        one.found.note
        for one in found.told
        if one.key.endswith(f"].{key}") and one.found.kind is Kind.DIFFERS and "all sources" in one.found.note
    ]
    assert [note.rpartition("; ")[2] for note in notes] == [f"holds for all sources, {others} too"]


@pytest.mark.parametrize(
    ("base", "entries"),
    [
        (AXOLOTL, [{"path": "org/a", "roles_to_train": ["assistant"]}, {"path": "org/b"}]),
        (AXOLOTL, [{"path": "org/a", "roles_to_train": []}, {"path": "org/b", "roles_to_train": []}]),
        (AXOLOTL, [{"path": "org/a", "roles_to_train": []}, {"path": "org/b", "type": "completion"}]),
        (AXOLOTL, [{"path": "org/a", "roles_to_train": []}]),
        (TUNE, [{**ALPACA, "train_on_input": False}, CHAT]),
    ],
)
def test_what_all_datasets_say_holds_for_all_without_a_word(
    base: dict[str, Any], entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = read(tmp_path, base, **{"datasets" if base is AXOLOTL else "dataset": entries})
    assert not [one for one in found.told if "all sources" in one.found.note]


def test_of_a_dataset_that_contradicts_another_the_rest_is_taken(tmp_path: Path) -> None:
    found = read(tmp_path, TUNE, dataset=[{**CHAT, "train_on_input": False}, ALPACA])
    assert found.settings["training.train_on"] == "all_turns"
    assert found.settings["dataset.sources.data.uri"] == "hf://tatsu-lab/alpaca"
    assert "training.train_on contradicts dataset[0].train_on_input" in told(found, "dataset[1]._component_").found.note


@pytest.mark.parametrize(
    ("base", "more", "batch"),
    [
        (AXOLOTL, {"micro_batch_size": 3, "context_parallel_size": 2}, 12),
        (AXOLOTL, {"micro_batch_size": 3, "sequence_parallel_degree": 2, "tensor_parallel_size": 2}, 6),
        (AXOLOTL, {"micro_batch_size": 3, "sequence_parallel_degree": 4, "context_parallel_size": 4}, 6),
        (TUNE, {"batch_size": 3, "tensor_parallel_dim": 4}, 6),
        (TUNE, {"batch_size": 3, "context_parallel_dim": 2, "tensor_parallel_dim": 2}, 6),
    ],
)
def test_devices_that_share_samples_are_one_of_a_batch(
    base: dict[str, Any], more: dict[str, int], batch: int, tmp_path: Path
) -> None:
    assert read(tmp_path, base, devices=8, **more).settings["training.effective_batch_size"] == batch
    assert read(tmp_path, base, **more).settings["training.effective_batch_size"] == 3


def test_devices_that_are_not_divided_by_those_that_share_samples_are_named(tmp_path: Path) -> None:
    found = told(read(tmp_path, AXOLOTL, devices=6, micro_batch_size=1, context_parallel_size=4), "micro_batch_size")
    assert (found.found.kind, "6 devices are not divided by the 4" in found.found.note) == (Kind.ABSENT, True)


def test_every_linear_layer_holds_whatever_modules_are_named_besides(tmp_path: Path) -> None:
    more = {"adapter": "lora", "lora_r": 8, "lora_target_modules": ["q_proj"]}
    assert "training.lora.target_modules" not in read(tmp_path, AXOLOTL, lora_target_linear=True, **more).settings
    found = read(tmp_path, AXOLOTL, lora_target_linear=False, **more)
    assert found.settings["training.lora.target_modules"] == ["q_proj"]
    assert told(found, "lora_target_linear").found.note == "off"


@pytest.mark.parametrize(
    ("base", "more", "key"),
    [
        (TRL, {"max_length": None}, "max_length"),
        (TUNE, {"tokenizer": {"_component_": "x", "max_seq_len": None}}, "tokenizer.max_seq_len"),
    ],
)
def test_a_length_of_null_cuts_nothing_and_gets_no_default(
    base: dict[str, Any], more: dict[str, Any], key: str, tmp_path: Path
) -> None:
    found = read(tmp_path, base, **more)
    assert not {"training.max_seq_len", "training.on_too_long"} & found.settings.keys()
    assert told(found, key).value is None
    assert "nothing is cut there" in told(found, key).found.note


def _entries(base: dict[str, Any], path: str, files: Any) -> dict[str, Any]:
    if base is TUNE:
        return {"dataset": {"_component_": "torchtune.datasets.chat_dataset", "source": path, "data_files": files}}
    return {"datasets": [{"path": path, "data_files": files}]}


@pytest.mark.parametrize("base", [AXOLOTL, TRL, TUNE])
@pytest.mark.parametrize(
    ("path", "files", "uri"),
    [
        ("./rows", "a.jsonl", "./rows/a.jsonl"),
        ("./rows/", ["a.jsonl"], "./rows/a.jsonl"),
        ("./rows", "/data/a.jsonl", "/data/a.jsonl"),
        ("json", "rows/a.jsonl", "rows/a.jsonl"),
        ("./rows", ["a.jsonl", "b.jsonl"], "???"),
        ("./rows", {"train": "a.jsonl"}, "???"),
        ("json", None, "???"),
    ],
)
def test_files_of_a_folder_are_the_rows_and_not_the_whole_folder(
    base: dict[str, Any], path: str, files: Any, uri: str, tmp_path: Path
) -> None:
    assert read(tmp_path, base, **_entries(base, path, files)).settings["dataset.uri"] == uri


@pytest.mark.parametrize("base", [AXOLOTL, TRL, TUNE])
def test_files_of_a_dataset_of_the_hub_are_said_to_be_the_whole_of_it(base: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, base, **_entries(base, "org/a", ["x.jsonl"]))
    [one] = [one for one in found.told if one.found.settings.get("dataset.uri") == "hf://org/a"]
    assert "single files of it are not chosen" in one.found.note


def test_what_is_left_of_raw_text_is_said(tmp_path: Path) -> None:
    entry = {"path": "org/raw", "split": "train[:10%]", "data_files": ["a.jsonl"]}
    found = told(read(tmp_path, {"base_model": "org/base"}, pretraining_dataset=[entry]), "pretraining_dataset").found
    assert "single files of it are not chosen" in found.note
    assert "not [:10%]" in found.note


@pytest.mark.parametrize(
    ("base", "more", "key"),
    [
        (AXOLOTL, {"test_datasets": [{"path": "org/data", "split": "train[90%:]"}]}, "test_datasets"),
        (TRL, {"dataset_test_split": "train[90%:]", "eval_strategy": "steps"}, "dataset_test_split"),
        (
            TUNE,
            {
                "dataset_val": {
                    "_component_": "torchtune.datasets.chat_dataset",
                    "source": "org/d",
                    "split": "train[9%:]",
                }
            },
            "dataset_val",
        ),
    ],
)
def test_a_part_of_a_split_is_not_held_out_as_the_whole_of_it(
    base: dict[str, Any], more: dict[str, Any], key: str, tmp_path: Path
) -> None:
    found = read(tmp_path, base, **more)
    assert told(found, key).found.kind is Kind.ABSENT
    assert not [ours for ours in found.settings if ours.startswith("eval.holdouts")]


def test_dataset_info_may_say_openai_or_what_nobody_knows_and_have_tabs(tmp_path: Path) -> None:
    info = {
        "mine": {"file_name": "a.jsonl", "formatting": "openai", "columns": {"messages": "messages"}},
        "other": {"file_name": "b.jsonl", "formatting": "parchment"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info, indent="\t"))
    found = read(tmp_path, FACTORY, dataset="mine,other")
    assert found.settings["dataset.sources.mine.format"] == "messages"
    assert "dataset.sources.mine.columns.messages" not in found.settings
    assert "dataset.sources.other.format" not in found.settings
    assert "other by dataset_info.json, but for formatting" in told(found, "dataset").found.note


def test_a_default_that_is_not_as_here_is_said_and_one_that_is_part_of_another_is_not(tmp_path: Path) -> None:
    odd = read(tmp_path, TRL, gradient_accumulation_steps=0)
    assert "training.effective_batch_size" not in odd.settings
    for keys, made in (
        ({"per_device_train_batch_size", "assistant_only_loss"}, odd),
        ({"assistant_only_loss"}, read(tmp_path, TRL, per_device_train_batch_size=4)),
    ):
        said = {told.key for told in made.defaults if not told.found.settings}
        assert said == keys
        text = text_of(made, "theirs.yaml")
        assert all(f"\n#   {key}: " in text for key in keys)
