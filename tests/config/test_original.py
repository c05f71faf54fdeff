"""The original pipeline's parameters: each name is a setting, with the original's values and defaults."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from sft.config.compose import compose, find_recipe
from sft.config.kfp_parameters import PARAMETERS, hydra_text
from sft.errors import ConfigError
from tests.support.configs import composed

URI = "phase_01_dataset_man_data_uri=rows.jsonl"


def setting(key: str, *overrides: str) -> Any:
    return reduce(getattr, key.split("."), compose(find_recipe("kfp"), [URI, *overrides]))


@pytest.mark.long
@pytest.mark.parametrize("parameter", [p for p in PARAMETERS.values() if not p.is_second], ids=lambda p: p.name)
def test_a_default_given_by_hand_changes_nothing(parameter: Any) -> None:
    cfg = composed(URI, recipe="kfp")
    given = f"{parameter.name}={hydra_text(parameter.value(cfg))}"
    assert compose(find_recipe("kfp"), [URI, given]) == cfg


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("phase_01_dataset_opt_subset=0", "dataset.max_samples", None),
        ("phase_01_dataset_opt_subset=10", "dataset.max_samples", 10),
        ("phase_02_train_man_train_batch=64", "training.effective_batch_size", 64),
        ("phase_02_train_man_train_epochs=3", "training.num_epochs", 3),
        ("phase_02_train_man_train_model=org/name", "model.name_or_path", "org/name"),
        ("phase_02_train_man_train_tokens=0", "training.max_tokens_per_gpu", None),
        ("phase_02_train_man_lora_r=16", "training.lora.rank", 16),
        ("phase_04_registry_man_reg_name=theirs", "registry.model_name", "theirs"),
        ("phase_02_train_opt_num_procs=auto", "training.launcher.procs_per_worker", None),
        ("phase_02_train_opt_num_procs='1'", "training.launcher.procs_per_worker", 1),
        ("phase_02_train_opt_memory=96Gi", "training.launcher.memory", "96Gi"),
        (
            "phase_02_train_opt_labels=kueue.x-k8s.io/queue-name=q",
            "training.launcher.labels",
            {"kueue.x-k8s.io/queue-name": "q"},
        ),
        ("phase_02_train_opt_labels=''", "training.launcher.labels", {}),
        ("phase_03_eval_opt_limit=-1", "eval.limit", None),
        ("phase_03_eval_opt_gen_kwargs={temperature: 0.5}", "eval.gen_kwargs", {"temperature": 0.5}),
        ("phase_03_eval_man_tasks=['gsm8k']", "eval.tasks", ["gsm8k"]),
    ],
)
def test_a_value_means_what_it_means_in_the_original(override: str, key: str, value: object) -> None:
    assert setting(key, override) == value


def test_on_one_machine_the_recipe_original_has_the_same_values_as_on_a_cluster() -> None:
    ours, theirs = composed(URI, recipe="original"), composed(URI, recipe="kfp")
    differ = {p.name for p in PARAMETERS.values() if p.value(ours) != p.value(theirs)}
    of_a_cluster = ("workers", "gpu", "cpu", "memory", "env_vars", "port")
    assert {name for name in differ if not name.endswith(of_a_cluster)} == set()


def test_pairs_are_added_to_a_mapping() -> None:
    env = setting("training.env", "phase_02_train_opt_env_vars=NCCL_DEBUG=WARN,NCCL_SOCKET_IFNAME=a:b")
    assert env["NCCL_DEBUG"] == "WARN"
    assert env["NCCL_SOCKET_IFNAME"] == "a:b"
    assert env["INSTRUCTLAB_NCCL_TIMEOUT_MS"] == "600000"


def test_a_wrong_value_is_refused_under_the_name_of_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"training.num_epochs=many: must be a number"):
        setting("name", "phase_02_train_man_epochs=many")


def test_a_wrong_name_is_told_the_nearest_of_the_originals() -> None:
    with pytest.raises(ConfigError, match="did you mean phase_02_train_man_epochs"):
        setting("name", "phase_02_train_man_epoch=1")


def test_the_documentation_has_every_parameter_with_its_setting_in_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `phase_")]
    told = [(name.strip(" `"), key.strip(" `")) for name, key in rows]
    assert told == [(parameter.name, parameter.key) for parameter in PARAMETERS.values()]
