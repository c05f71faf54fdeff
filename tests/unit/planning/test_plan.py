"""Which steps a run has, and what makes each of them another one: no more and no less."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from sft import record
from sft.adapters.instructlab.settings import Nodes
from sft.config.schema import (
    Attention,
    Compile,
    GradientCheckpointing,
    LauncherConfig,
    Precision,
    ShardingStrategy,
    TrainingConfig,
)
from sft.errors import ConfigError
from sft.planning.environment import Environment
from sft.planning.plan import Plan, build_plan
from sft.planning.precision import CpuPrecision
from sft.planning.resources import resolve_resources
from sft.planning.stage_spec import STAGES
from tests.support.configs import composed

WORLD = Environment(
    dataset_version="1",
    model_version="",
    tasks_version="t",
    device="cpu",
    resources=resolve_resources(TrainingConfig(launcher=LauncherConfig(procs_per_worker=2))),
    versions={"torch": "2"},
)

SCORING = {"evaluate:base", "evaluate:tuned", "compare"}
TOLD = ["package", "register"]
"""Steps that tell of the whole run: another one has others."""


def plan(*overrides: str, world: Environment | None = None) -> Plan:
    cfg = composed(*overrides)
    return build_plan(cfg, world or dataclasses.replace(WORLD, resources=resolve_resources(cfg.training)))


def keys(made: Plan) -> dict[str, str]:
    """Keys when each step's output digest is a function of its key, as where nothing is cut off early."""
    digests: dict[str, str] = {}
    for step in made.steps:
        digests[step.name] = step.key(digests)
    return digests


def changed(*overrides: str, world: Environment | None = None) -> list[str]:
    before, after = keys(plan()), keys(plan(*overrides, world=world))
    return [name for name in after if before.get(name) != after[name]]


def names(made: Plan) -> list[str]:
    return [step.name for step in made.steps]


def test_a_whole_run_has_nine_steps_in_order() -> None:
    evaluated = ["dataset", "model", "tokenize", "evaluate:base", "train", "evaluate:tuned", "compare"]
    assert names(plan()) == [*evaluated, "package", "register"]


@pytest.mark.parametrize(
    ("overrides", "absent", "said"),
    [
        (["registry=none"], {"register"}, "registry=none"),
        (["registry=kubeflow"], {"register"}, "registry.address is empty"),
        (["eval.baseline=false"], {"evaluate:base", "compare"}, None),
        (["eval=none"], SCORING, "eval.enabled=false"),
        (["eval.tasks=[]", "eval.holdout.enabled=false"], SCORING, "no eval.tasks"),
    ],
)
def test_what_the_recipe_leaves_out_is_not_in_the_plan(overrides: Sequence[str], absent: set[str], said: str) -> None:
    made = plan(*overrides)
    assert set(names(plan())) - set(names(made)) == absent
    assert (said in made.left_out[0]) if said else made.left_out == ()


def test_a_setting_that_does_nothing_is_noted_also_up_to_a_goal() -> None:
    made = plan("training.lora.alpha=64")
    assert plan().notes == ()
    assert made.notes == made.reaching("train").notes
    assert made.notes[0].startswith("training.lora.alpha=64: not read")


def test_gates_come_after_the_comparison_or_without_a_baseline_after_the_scores() -> None:
    for setting in ("eval.gates.holdout.loss=< 1", "eval.no_regression=[holdout]"):
        assert names(plan(setting))[-4:] == ["compare", "gates", "package", "register"]
    assert names(plan("eval.gates.holdout.loss=< 1", "eval.baseline=false"))[-4:-2] == ["evaluate:tuned", "gates"]


def test_the_same_configuration_has_the_same_keys() -> None:
    assert changed() == []


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("eval.log_samples=false", ["evaluate:base", "evaluate:tuned", "compare", *TOLD]),
        ("eval.confidence=0.9", ["compare", *TOLD]),
        ("registry.description=x", TOLD),
        ("training.learning_rate=0.1", ["train", "evaluate:tuned", "compare", *TOLD]),
        ("training.fsdp=shard_grad_op", ["train", "evaluate:tuned", "compare", *TOLD]),
        ("training.max_seq_len=100", ["tokenize", "evaluate:base", "train", "evaluate:tuned", "compare", *TOLD]),
        (
            "dataset.seed=1",
            ["dataset", "model", "tokenize", "evaluate:base", "train", "evaluate:tuned", "compare", *TOLD],
        ),
        ("name=other", TOLD),
        ("run_root=elsewhere", []),
    ],
)
def test_a_change_runs_again_only_what_depends_on_it(override: str, again: list[str]) -> None:
    assert changed(override) == again


SOURCES = ("dataset.uri=", "dataset.sources.maths.uri=a.csv", "dataset.sources.chat.uri=b.jsonl")


def test_a_mix_makes_tokens_again_and_rows_only_where_a_source_is_another() -> None:
    before = keys(plan(*SOURCES))
    for override in ("dataset.sources.chat.epochs=2", "dataset.mixing=proportional", "dataset.mixing=temperature"):
        after = keys(plan(*SOURCES, override))
        assert [after[name] == before[name] for name in ("dataset", "model", "tokenize")] == [True, True, False]
    for override in ("dataset.sources.chat.max_samples=9", "dataset.sources.chat.split=train"):
        assert keys(plan(*SOURCES, override))["dataset"] != before["dataset"]


def test_a_dataset_of_one_uri_knows_nothing_of_mixes() -> None:
    settings = {step.name: step.settings for step in plan().steps}
    assert not {"sources", "mixing", "mixing_temperature", "stop"} & settings["dataset"].keys()
    assert not [name for name in settings["tokenize"] if name.startswith("dataset.")]


def test_what_becomes_of_long_conversations_is_the_tokens_business() -> None:
    before, after = plan(), plan("training.on_too_long=truncate")
    assert "on_too_long" not in {name for step in before.steps if step.stage == "tokenize" for name in step.settings}
    digests = {"dataset": "d", "model": "m", "tokenize": "t"}
    same = [
        one.key(digests) == other.key(digests) for one, other in zip(before.steps[:5], after.steps[:5], strict=True)
    ]
    assert [step.name for step, is_same in zip(before.steps, same, strict=False) if not is_same] == ["tokenize"]


def test_a_held_out_set_is_not_checked_again_for_another_mix() -> None:
    support = "eval.holdouts.support.uri=x.jsonl"
    one, other = (plan(*SOURCES, support, f"dataset.sources.chat.epochs={epochs}") for epochs in (1, 2))
    assert keys(one)["tokenize:support"] == keys(other)["tokenize:support"]


def test_a_program_that_the_recipe_names_is_told() -> None:
    assert plan("eval.backend=vllm", "eval.vllm.python=a/python").notes == (
        "eval.vllm.python=a/python: a program that the recipe names was run, as vLLM's Python",
    )


def test_vllm_is_in_the_key_by_its_version_and_not_by_its_place() -> None:
    def evaluation(*overrides: str, version: str = "vllm 1") -> str:
        world = dataclasses.replace(WORLD, vllm_version=version)
        return keys(plan("eval.backend=vllm", "eval.vllm.python=a", *overrides, world=world))["evaluate:base"]

    assert evaluation() == evaluation("eval.vllm.python=b", "eval.vllm.startup_seconds=9")
    assert evaluation() != evaluation(version="vllm 2")
    assert evaluation() != evaluation("eval.vllm.max_model_len=9")


EPOCHS = ["eval.every_epochs=2", "training.num_epochs=5"]


def test_the_models_of_epochs_are_scored_on_held_out_sets_after_the_tuned_one_and_each_has_its_key() -> None:
    made = plan(*EPOCHS)
    scored = ["evaluate:tuned", "compare", "evaluate:epoch-2", "evaluate:epoch-4"]
    assert names(made)[5:] == [*scored, "package", "register"]
    by_name = {step.name: step for step in made.steps}
    assert by_name["evaluate:epoch-2"].needs == ("train", "dataset", "tokenize")
    assert by_name["evaluate:epoch-2"].settings["tasks"] == []
    digests = {"train": "t", "dataset": "d", "tokenize": "k"}
    assert by_name["evaluate:epoch-2"].key(digests) != by_name["evaluate:epoch-4"].key(digests)
    assert {"evaluate:epoch-2", "evaluate:epoch-4"} <= {*by_name["package"].needs}


def test_what_is_scored_of_epochs_changes_nothing_of_the_other_scores() -> None:
    before, after = keys(plan(*EPOCHS)), keys(plan(*EPOCHS, "eval.epoch_tasks=[spell_numbers]"))
    epochs = ["evaluate:epoch-2", "evaluate:epoch-4"]
    assert [name for name in after if before[name] != after[name]] == [*epochs, *TOLD]
    assert {
        step.name: step for step in plan(*EPOCHS, "eval.epoch_holdouts=[]", "eval.epoch_tasks=[spell_numbers]").steps
    }["evaluate:epoch-2"].needs == ("train",)


def test_a_score_chooses_among_the_models_of_epochs_before_anything_is_made_of_one() -> None:
    made = plan(*EPOCHS, "training.select.metric=holdout.loss")
    epochs = ["evaluate:epoch-2", "evaluate:epoch-4", "evaluate:epoch-5"]
    assert names(made)[5:] == [*epochs, "select", "evaluate:tuned", "compare", "package", "register"]
    needs = {step.name: step.needs for step in made.steps}
    assert needs["select"] == ("train", *epochs)
    assert needs["evaluate:tuned"][0] == "select"
    assert "select" in {*needs["package"]} & {*needs["register"]}
    assert "train" not in {*needs["package"], *needs["register"], *needs["evaluate:tuned"]}
    assert any(note.startswith("training.select.metric=holdout.loss: the model is the best") for note in made.notes)


def test_a_choice_by_a_score_trains_and_scores_nothing_again() -> None:
    before = keys(plan(*EPOCHS))
    after = keys(plan(*EPOCHS, "training.select.metric=holdout.loss"))
    same = [name for name in before if before[name] == after[name]]
    assert same == [*names(plan())[:5], "evaluate:epoch-2", "evaluate:epoch-4"]


def test_the_key_of_a_training_that_chooses_by_its_own_loss_is_what_it_was() -> None:
    validated = ["training.select.metric=validation_loss", "training.validation_split=0.1"]
    train = next(step for step in plan(*validated).steps if step.name == "train")
    assert train.settings["select"] == {"metric": "validation_loss", "mode": "min"}
    assert keys(plan(*validated))["train"] == keys(plan(*validated, "training.select.mode=min"))["train"]
    assert keys(plan(*validated))["train"] != keys(plan(*validated, "training.select.mode=max"))["train"]
    assert "select" not in next(step for step in plan(*EPOCHS).steps if step.name == "train").settings


JUDGE = ["eval.judge.address=http://localhost:8000/v1", "eval.judge.model=m"]


def test_a_judge_comes_after_both_evaluations_and_before_gates_and_package() -> None:
    made = plan(*JUDGE, "eval.gates.judge.win_rate=>= 0.5")
    assert names(made)[5:] == ["evaluate:tuned", "compare", "judge", "gates", "package", "register"]
    needs = {step.name: step.needs for step in made.steps}
    assert needs["judge"] == ("dataset", "evaluate:base", "evaluate:tuned")
    assert all("judge" in needs[name] for name in ("gates", "package", "register"))


def test_every_named_set_is_judged_in_a_step_of_its_own_unless_some_are_chosen() -> None:
    sets = ["eval.holdouts.support.uri=a", "eval.holdouts.legal.uri=b", "eval.gates.judge.legal.win_rate=>= 0.5"]
    made = plan(*JUDGE, *sets)
    judged = {step.name: step.needs[0] for step in made.steps if step.stage == "judge"}
    assert judged == {"judge": "dataset", "judge:support": "dataset:support", "judge:legal": "dataset:legal"}
    needs = {step.name: step.needs for step in made.steps}
    assert all({*judged} <= {*needs[name]} for name in ("gates", "package", "register"))
    chosen = plan(*JUDGE, *sets, "eval.judge.holdouts=[legal]")
    assert [step.name for step in chosen.steps if step.stage == "judge"] == ["judge:legal"]
    assert keys(made)["judge:legal"] == keys(chosen)["judge:legal"]


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("eval.judge.prompt=Which one rhymes?", ["judge", *TOLD]),
        ("eval.judge.version=2", ["judge", *TOLD]),
        ("eval.judge.model=n", ["judge", *TOLD]),
        ("eval.judge.limit=5", ["judge", *TOLD]),
        ("eval.judge.concurrency=9", TOLD),
        ("eval.judge.max_unparsable=1", TOLD),
    ],
)
def test_a_judgment_is_made_again_if_what_is_asked_changes(override: str, again: list[str]) -> None:
    before, after = keys(plan(*JUDGE)), keys(plan(*JUDGE, override))
    assert [name for name in after if before[name] != after[name]] == again


UPLOAD = "registry.upload=s3://bucket/models"


@pytest.mark.parametrize(("registry", "registers"), [("mlflow", True), ("none", False)])
def test_an_upload_comes_between_package_and_registration(registry: str, registers: bool) -> None:
    made = plan(f"registry={registry}", UPLOAD)
    assert names(made)[-3 + (not registers) :] == ["package", "upload", *(["register"] if registers else [])]
    by_name = {step.name: step for step in made.steps}
    assert by_name["upload"].needs == ("package",)
    assert not registers or "upload" in by_name["register"].needs
    assert "upload" not in names(plan())


def test_an_upload_depends_on_the_package_and_the_place_only() -> None:
    [before, other, described] = [
        next(step for step in plan(UPLOAD, *more).steps if step.name == "upload")
        for more in ([], ["registry.upload=s3://bucket/others"], ["registry.description=x", "registry=none"])
    ]
    assert before.key({"package": "p"}) == described.key({"package": "p"})
    assert before.key({"package": "p"}) != before.key({"package": "q"})
    assert before.key({"package": "p"}) != other.key({"package": "p"})


@pytest.mark.parametrize(
    ("fact", "value", "first"),
    [
        ("dataset_version", "2", "dataset"),
        ("model_version", "abc", "model"),
        ("tasks_version", "u", "evaluate:base"),
        ("versions", {"torch": "3"}, "evaluate:base"),
    ],
)
def test_a_change_of_the_world_runs_again_what_depends_on_it(fact: str, value: object, first: str) -> None:
    assert changed(world=dataclasses.replace(WORLD, **{fact: value}))[0] == first


def test_an_equal_dataset_under_another_uri_changes_nothing_downstream() -> None:
    digests = {"dataset": "d", "model": "m", "tokenize": "t"}
    first, second = plan(), plan("dataset.uri=synthetic://spell-numbers?rows=3000")
    by_name = {step.name: step for step in second.steps}
    for step in first.steps[1:4]:
        assert step.key(digests) == by_name[step.name].key(digests)


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        ("dataset", ["dataset"]),
        ("train", ["dataset", "model", "tokenize", "train"]),
        ("evaluate", ["dataset", "model", "tokenize", "evaluate:base", "train", "evaluate:tuned"]),
    ],
)
def test_a_goal_is_a_step_or_a_stage_and_takes_only_what_it_needs(goal: str, reached: list[str]) -> None:
    assert names(plan().reaching(goal)) == reached


def test_a_goal_that_the_recipe_leaves_out_says_why() -> None:
    with pytest.raises(ConfigError) as refused:
        plan("eval=none").reaching("evaluate")
    assert str(refused.value).splitlines()[1] == (
        "  - evaluate: no such step; there are dataset, model, tokenize, train, package, register; "
        "left out is evaluate: eval.enabled=false"
    )


@pytest.mark.parametrize("asked", ["full_shard", "shard_grad_op", "hybrid_shard", "no_shard"])
def test_what_a_machine_makes_the_same_is_the_same_work(asked: str) -> None:
    one_rank = "training.launcher.procs_per_worker=1"
    assert keys(plan(one_rank, f"training.fsdp={asked}"))["train"] == keys(plan(one_rank))["train"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_processes", 4),
        ("nodes", Nodes(num=2)),
        ("precision", Precision.auto),
        ("base_token_budget", 77),
        ("attention", Attention.flash_attention),
        ("use_liger", True),
        ("strategy", ShardingStrategy.NO_SHARD),
        ("gradient_checkpointing", GradientCheckpointing.none),
        ("compile", Compile.regional),
        ("device", "NVIDIA H100"),
    ],
)
def test_a_training_with_other_resources_is_another_training(name: str, value: object) -> None:
    """Whatever ``auto`` and null became counts, so that a key means the same on every machine."""
    assert WORLD.resources is not None
    other = dataclasses.replace(WORLD, resources=dataclasses.replace(WORLD.resources, **{name: value}))
    before, after = keys(plan(world=WORLD)), keys(plan(world=other))
    assert [step for step in after if before[step] != after[step]] == ["train", "evaluate:tuned", "compare", *TOLD]


def test_a_training_that_compiles_nothing_has_the_key_that_it_had() -> None:
    step = next(step for step in plan(world=WORLD).steps if step.name == "train")
    assert "compile" not in step.settings
    assert "compile" not in step.settings["resources"]


def test_a_trace_is_made_by_a_training_that_has_none_yet() -> None:
    assert "train" in changed("training.profile.first_step=4")
    assert changed("training.profile.num_steps=5") == TOLD  # without a first step there is none


def test_a_schedule_counts_and_one_without_settings_has_the_key_that_it_had() -> None:
    assert "train" in changed("training.schedule.cycles=3")
    for name, counts in (("cosine", False), ("polynomial", True)):  # which ended at 1e-7
        made = plan("training.schedule.warmup_ratio=null", f"training.lr_scheduler={name}")
        [train] = [step for step in made.steps if step.name == "train"]
        assert ("schedule" in train.settings) is counts


def test_loader_workers_change_nothing_of_the_weights() -> None:
    assert changed("training.num_loader_workers=3") == TOLD


def test_variables_of_the_ranks_count_unless_they_can_change_no_number() -> None:
    assert "train" in changed("training.env.NVIDIA_TF32_OVERRIDE=0")
    assert "train" in changed("training.env.NCCL_ALGO=Ring")
    for harmless in ("NCCL_DEBUG=INFO", "NCCL_IB_DISABLE=1", "WANDB_MODE=offline", "NO_COLOR=1"):
        assert changed(f"training.env.{harmless}") == TOLD
    [train] = [step for step in plan("training.env.NCCL_DEBUG=INFO").steps if step.name == "train"]
    assert "env" not in train.settings


def test_an_adapter_of_an_equal_base_elsewhere_is_another_one_as_it_names_its_base(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    digests = {"model": "same", "tokenize": "same"}

    def with_equal_inputs(folder: Path, *overrides: str) -> str:
        folder.mkdir(exist_ok=True)
        made = plan("model=hub", f"model.name_or_path={folder}", *overrides)
        [step] = [step for step in made.steps if step.name == "train"]
        return step.key(digests)

    assert with_equal_inputs(first) == with_equal_inputs(second)
    adapters = "training.lora.rank=8"
    assert with_equal_inputs(first, adapters) != with_equal_inputs(second, adapters)
    (tmp_path / "link").symlink_to(first)
    assert with_equal_inputs(first, adapters) == with_equal_inputs(tmp_path / "link", adapters)


def test_how_a_full_state_is_written_changes_nothing_of_the_weights() -> None:
    assert changed("training.async_states=false") == TOLD
    assert WORLD.resources is not None
    assert not WORLD.resources.async_states
    other = dataclasses.replace(WORLD, resources=dataclasses.replace(WORLD.resources, async_states=True))
    assert keys(plan(world=other)) == keys(plan(world=WORLD))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_is_the_same_work_as_what_it_becomes(precision: str) -> None:
    chosen = CpuPrecision(precision=Precision(precision), reason="")
    auto, said = (composed(f"training.precision={text}") for text in ("auto", precision))
    worlds = [dataclasses.replace(WORLD, resources=resolve_resources(cfg.training, chosen)) for cfg in (auto, said)]
    assert keys(build_plan(auto, worlds[0]))["train"] == keys(build_plan(said, worlds[1]))["train"]


@pytest.mark.parametrize("override", ["sweep.objective=train.loss", "sweep.skip_infeasible=false"])
def test_what_a_sweep_looks_for_changes_nothing_of_a_run(override: str) -> None:
    assert changed(override) == []


SETS = ("eval.holdouts.support.uri=a.jsonl", "eval.holdouts.legal.uri=b.jsonl")


def test_a_named_held_out_set_has_steps_of_its_own_before_anything_is_trained() -> None:
    made = plan(*SETS)
    assert names(made)[:6] == [
        *("dataset:support", "dataset:legal", "dataset", "model", "tokenize:support", "tokenize:legal"),
    ]
    steps = {step.name: step for step in made.steps}
    sets = ("dataset:support", "tokenize:support", "dataset:legal", "tokenize:legal")
    assert steps["evaluate:tuned"].needs == ("train", "dataset", "tokenize", *sets)
    assert steps["evaluate:base"].needs == ("model", "dataset", "tokenize", *sets)
    assert names(plan(*SETS, "eval=none")) == names(plan("eval=none"))
    alone = {step.name: step for step in plan(*SETS, "eval.holdout.enabled=false", "eval.tasks=[]").steps}
    assert alone["evaluate:base"].needs == ("model", *sets)


def test_a_held_out_set_changes_what_is_scored_and_nothing_that_is_trained() -> None:
    assert {name for name in changed(*SETS) if ":" not in name} == {"compare", *TOLD}
    with_sets = keys(plan(*SETS, world=WORLD))
    world = dataclasses.replace(WORLD, held_out_versions={"legal": "2"})
    others = keys(plan(*SETS, world=world))
    rows = {"dataset:legal", "tokenize:legal", "evaluate:base", "evaluate:tuned", "compare"}
    assert {name for name in with_sets if others[name] != with_sets[name]} == {*rows, *TOLD}


def test_the_dataset_takes_the_sets_only_to_keep_them_out_of_training() -> None:
    def needs(*overrides: str) -> tuple[str, ...]:
        return next(step.needs for step in plan(*overrides).steps if step.name == "dataset")

    assert needs(*SETS) == ()
    assert needs(*SETS, "dataset.decontaminate=true") == ("dataset:support", "dataset:legal")


def test_lengths_losses_and_optimizers_count_and_what_they_were_before_has_the_key_that_it_had() -> None:
    [before] = [step.settings for step in plan().steps if step.name == "train"]
    newer = {"max_steps", "loss", "label_smoothing", "z_loss", "optimizer", "freeze", "parameter_groups"}
    assert not {*newer, "weight_decay_on"} & before.keys()
    assert isinstance(before["num_epochs"], int)
    for override in (
        *("training.max_steps=3", "training.num_epochs=1.5", "training.loss=dft", "training.label_smoothing=0.1"),
        *("training.z_loss=1e-4", "training.optimizer=lion", "training.freeze=[embeddings]"),
        "training.parameter_groups.a={match: embeddings, learning_rate: 1e-4}",
    ):
        assert "train" in changed(override), override


def test_weight_decay_on_matrices_has_another_key_than_it_had_on_all() -> None:
    def settings(*overrides: str) -> set[str]:
        [train] = [step for step in plan(*overrides).steps if step.name == "train"]
        return set(train.settings)

    assert "weight_decay_on" in settings("training.weight_decay=0.1")
    assert "weight_decay_on" not in settings("training.weight_decay=0.1", "training.weight_decay_on=all")
    assert "weight_decay_on" not in settings("training.weight_decay_on=all")


def test_adapters_have_a_rate_of_their_own_unless_somebody_says_another() -> None:
    def rate(*overrides: str) -> float:
        cfg = composed("training.learning_rate=null", *overrides)
        [train] = [step for step in build_plan(cfg, WORLD).steps if step.name == "train"]
        assert train.settings["learning_rate"] == cfg.training.learning_rate
        return train.settings["learning_rate"]

    assert (rate(), rate("training.lora.rank=8")) == (5e-6, 2e-4)
    assert rate("training.lora.rank=8", "training.learning_rate=1e-3") == 1e-3


def test_the_choice_of_a_step_counts_and_without_one_a_training_has_the_key_that_it_had() -> None:
    [before] = [step.settings for step in plan().steps if step.name == "train"]
    assert not {"select", "early_stopping", "checkpoint_limit", "data_seed"} & before.keys()
    validates = "training.validation_split=0.1"
    chooses = [validates, "training.select.metric=validation_loss"]
    keys = {
        tuple(repr(step.settings) for step in plan(*overrides).steps if step.name == "train")
        for overrides in (
            [validates],
            chooses,
            [*chooses, "training.select.mode=max"],
            [*chooses, "training.early_stopping.patience=2"],
            [*chooses, "training.early_stopping.patience=2", "training.early_stopping.min_delta=0.1"],
            [*chooses, "training.data_seed=1"],
            [*chooses, "training.checkpoint_limit=1"],
        )
    }
    assert len(keys) == 7


VALIDATES = [*SETS, "training.validation_sets=[legal]"]


def test_a_set_that_is_validated_is_labelled_in_a_step_of_its_own_and_its_scores_are_not_made_again() -> None:
    made = plan(*VALIDATES)
    needs = {step.name: step.needs for step in made.steps}
    assert needs["tokenize:legal:labels"] == ("dataset:legal", "model")
    assert needs["train"] == ("model", "tokenize", "tokenize:legal:labels")
    assert "tokenize:legal:labels" not in {*needs["evaluate:base"], *needs["evaluate:tuned"]}
    before, after = keys(plan(*SETS)), keys(made)
    assert next(name for name in before if before[name] != after[name]) == "train"
    assert after["tokenize:legal:labels"] != after["tokenize:legal"]


def test_a_set_is_validated_where_nothing_is_scored() -> None:
    made = names(plan(*VALIDATES, "eval.enabled=false"))
    assert made[:6] == ["dataset:legal", "dataset", "model", "tokenize:legal:labels", "tokenize", "train"]


def test_the_labels_of_a_set_are_made_again_if_the_loss_mask_changes_and_those_of_its_check_are_not() -> None:
    before, after = keys(plan(*VALIDATES)), keys(plan(*VALIDATES, "training.train_on=everything"))
    assert before["tokenize:legal:labels"] != after["tokenize:legal:labels"]


def test_validated_sets_count_and_without_them_a_training_has_the_key_that_it_had() -> None:
    [before] = [step.settings for step in plan(*SETS).steps if step.name == "train"]
    assert "validation_sets" not in before
    assert "train" in changed(*SETS, "training.validation_sets=[support]")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ""),
        (["training.select.metric=validation_loss.legal"], "scores on legal will be optimistic; unbiased are those on"),
        (["training.select.metric=validation_loss"], "scores on legal will be optimistic"),
        (["training.select.metric=validation_loss", "training.validation_split=0.1"], ""),
        (["training.select.metric=validation_loss.legal", "eval.enabled=false"], ""),
    ],
)
def test_a_plan_says_that_the_scores_of_a_set_that_chooses_are_optimistic(overrides: list[str], said: str) -> None:
    notes = [note for note in plan(*VALIDATES, *overrides).notes if "optimistic" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_the_column_of_raw_text_counts_and_without_one_a_dataset_has_the_key_that_it_had() -> None:
    def columns(*overrides: str) -> dict[str, str]:
        return next(step.settings["columns"] for step in plan(*overrides).steps if step.name == "dataset")

    assert set(columns()) == {"messages", "prompt", "completion"}
    text = ["dataset.format=text", "dataset.train_split=1.0", "eval=none"]
    assert columns(*text, "dataset.columns.text=body")["text"] == "body"


def test_a_package_that_changes_a_result_is_one_whose_version_is_recorded() -> None:
    """Else its version is in no key: a new release would be served what an old one made."""
    assert {name for stage in STAGES.values() for name in stage.packages} <= set(record._PACKAGES)
