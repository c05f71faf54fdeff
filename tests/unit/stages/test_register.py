"""What the registry stage says about a model, before any registry is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sft.config.schema import RegistryConfig, RegistryKind
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.register import describe, register
from tests.support.register_inputs import register_inputs, sha

CFG = RegistryConfig(kind=RegistryKind.mlflow, author="ada", model_name="speller", model_version="2.1")


def test_the_checkpoints_digest_identifies_the_registration(tmp_path: Path) -> None:
    assert describe(CFG, register_inputs(tmp_path)).digest == sha("weights")


def test_the_uri_is_absolute_and_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = describe(CFG, register_inputs(Path("runs")))
    assert relative.uri == f"file://{tmp_path}/runs/package%20weights/model"


def test_a_model_on_a_volume_has_the_volumes_address(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path / "runs", volume=f"sft-workspace:{tmp_path}")
    assert describe(CFG, inputs).uri == "pvc://sft-workspace/runs/package%20weights/model"
    elsewhere = register_inputs(tmp_path, volume="sft-workspace:/workspace")
    with pytest.raises(StageError, match=r"the model is not there but in .*\n  try: run_root=/workspace/runs"):
        describe(CFG, elsewhere)


def test_scores_say_whose_they_are_and_carry_their_standard_error(tmp_path: Path) -> None:
    assert describe(CFG, register_inputs(tmp_path)).scores == {
        "base.arc.acc": 0.25,
        "base.arc.acc_stderr": 0.125,
        "base.holdout.acc": 0.0,
        "tuned.arc.acc": 0.5,
        "tuned.arc.acc_stderr": 0.125,
        "tuned.holdout.acc": 0.9375,
        "verdict.arc.acc": "+0.2500, better (+0.1250 to +0.3750)",
        "verdict.holdout.acc": "+0.9375, no verdict (one sample has no error)",
    }


def test_a_model_without_scores_is_registered_without_scores(tmp_path: Path) -> None:
    assert describe(CFG, register_inputs(tmp_path, baseline=None, report=None, comparison=None)).scores == {}


def test_facts_keep_their_types(tmp_path: Path) -> None:
    registration = describe(CFG, register_inputs(tmp_path))
    assert registration.facts["dataset.num_train"] == 80
    assert registration.details["training.learning_rate"] == 5e-6
    assert registration.details["model.trust_remote_code"] is False


def test_few_facts_are_for_people_and_a_setting_without_effect_is_none(tmp_path: Path) -> None:
    parameters = {"training.seed": 7, "training.lora.rank": 0, "training.lora.alpha": 16, "model.scratch.layers": 2}
    inputs = register_inputs(tmp_path, parameters=parameters)
    registration = describe(replace(CFG, license="apache-2.0", labels=["team-a"]), inputs)
    assert {key for key in registration.details if key in parameters} == {"training.seed"}
    assert not registration.facts.keys() & registration.details.keys()
    assert registration.facts["license"] == "apache-2.0"
    assert registration.facts["base_model"] == "Qwen/Qwen2.5-1.5B-Instruct@989aa79"
    assert registration.labels == ("team-a",)
    scratch = replace(
        inputs, base=replace(inputs.base, source="scratch"), parameters=parameters | {"training.lora.rank": 4}
    )
    assert parameters.keys() <= describe(CFG, scratch).details.keys()


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path, git_commit=None)
    inputs = replace(inputs, base=replace(inputs.base, revision="", num_parameters=None))
    registration = describe(CFG, inputs)
    known = registration.facts | registration.details
    assert not {"git_commit", "base_model.revision", "base_model.num_parameters", "license"} & known.keys()
    assert known["dataset.num_unused"] == 0
    assert known["base_model"] == "Qwen/Qwen2.5-1.5B-Instruct"


def test_a_password_in_the_datasets_source_is_masked(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path)
    inputs = replace(inputs, dataset=replace(inputs.dataset, source="https://ada:canary@host/chat.jsonl"))
    assert describe(CFG, inputs).facts["dataset.source"] == "https://***@host/chat.jsonl"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float) -> None:
    inputs = register_inputs(tmp_path)
    inputs = replace(inputs, checkpoint=replace(inputs.checkpoint, final_loss=value))
    with pytest.raises(StageError, match=rf"checkpoint\.final_loss={value}"):
        describe(CFG, inputs)


@pytest.mark.parametrize("kind", [RegistryKind.none, RegistryKind.kubeflow])
def test_nothing_to_register_with_is_a_bug_of_the_caller(tmp_path: Path, kind: RegistryKind) -> None:
    with pytest.raises(ValueError, match="registers nothing"):
        register(RegistryConfig(kind=kind), register_inputs(tmp_path), tmp_path / "out", Progress(quiet=True))
