"""What is a sweep, what varies in it, and what is refused before any point runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.compose import Recipe, compose, find_recipe
from sft.errors import ConfigError
from sft.sweep.objective import direction_of, objective
from sft.sweep.spec import Sweep, check, read

QUICKSTART = find_recipe("quickstart")
STRATEGIES = find_recipe("quickstart_fsdp_sweep")
OPTUNA = find_recipe("quickstart_optuna")


def sweep(recipe: Recipe, *overrides: str) -> Sweep:
    found = read(recipe, overrides, asked=True)
    assert found is not None
    return found


def problems(recipe: Recipe, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(sweep(recipe, *overrides))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("recipe", "overrides", "asked", "is_sweep"),
    [
        (QUICKSTART, [], False, False),
        (QUICKSTART, ["training.seed=1,2"], True, True),
        (QUICKSTART, ["training.seed=1,2", "hydra.mode=MULTIRUN"], False, True),
        (STRATEGIES, [], False, True),
        (STRATEGIES, [], True, True),
        (STRATEGIES, ["hydra.mode=RUN"], False, False),
        (OPTUNA, [], False, True),
    ],
)
def test_a_sweep_is_asked_for_or_written_in_the_recipe(
    recipe: Recipe, overrides: list[str], asked: bool, is_sweep: bool
) -> None:
    assert (read(recipe, overrides, asked=asked) is not None) is is_sweep


def test_points_come_in_hydras_order_groups_and_settings_alike() -> None:
    found = sweep(QUICKSTART, "training.fsdp=full_shard,no_shard", "training.seed=1,2", "training.num_epochs=3")
    assert found.varied == {"training/fsdp": "full_shard,no_shard", "training.seed": "1,2"}
    assert found.points()[1] == ["training/fsdp=full_shard", "training.seed=2", "training.num_epochs=3"]
    assert [cfg.training.seed for cfg in check(found)] == [1, 2, 1, 2]


def test_the_command_line_takes_the_place_of_the_recipes_values() -> None:
    found = sweep(STRATEGIES, "training.fsdp.sharding_strategy=NO_SHARD", "training.seed=1,2")
    assert found.varied == {"training.seed": "1,2"}
    assert {cfg.training.fsdp.sharding_strategy.name for cfg in check(found)} == {"NO_SHARD"}


def test_a_recipes_values_are_checked_as_typed_ones_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "defaults: [quickstart, _self_]\n"
        f"hydra:\n  searchpath: ['file://{QUICKSTART.path.parent}']\n"
        "  sweeper:\n    params:\n      training.fsdp: full_shard,none\n      training.lerning_rate: 1,2\n"
    )
    found = problems(Recipe(path))
    assert any(problem.startswith("training/fsdp=none: must be one of full_shard") for problem in found)
    assert "training.lerning_rate=1: no such setting; did you mean training.learning_rate?" in found


@pytest.mark.slow
def test_every_value_of_a_sweep_is_checked_before_any_runs() -> None:
    found = problems(QUICKSTART, "training.num_epochs=1,0,x", "training.fsdp=full_shard,none")
    assert {problem.partition("=")[0] for problem in found} == {"training.num_epochs", "training/fsdp"}
    assert len(found) == 3


def test_rules_across_fields_are_checked_for_every_combination() -> None:
    both = ["training.max_seq_len=100,300", "training.max_tokens_per_gpu=200,400"]
    assert problems(QUICKSTART, *both) == [
        "training.max_seq_len=300: a sample must fit into training.max_tokens_per_gpu=200; try training.max_seq_len=200"
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "-m: nothing varies; try training.learning_rate=1e-5,5e-6"),
        (["training.learning_rate=interval(1e-5,1e-3)"], "an interval needs a sampler; add hydra/sweeper=optuna"),
        (["training/fsdp=glob(*)"], "training/fsdp=glob(*): the choices must be named"),
        (["training.seed=1,2", "hydra.job.chdir=true,false"], "Hydra's own settings can't vary"),
        (["training.seed=1,2", "run_root=a,b"], "run_root=a,b: is of the whole sweep"),
        (["training.seed=1,2", "sweep.objective=train.loss,holdout.loss"], "is of the whole sweep"),
        (["training.seed=1,2", "hydra/launcher=jobilb"], "hydra/launcher=jobilb: must be one of basic, joblib"),
        (["training.seed=1,2", "hydra/sweeper=optna"], "hydra/sweeper=optna: must be one of basic, optuna; did you"),
    ],
)
def test_what_can_not_be_swept_is_refused(overrides: list[str], said: str) -> None:
    assert any(said in problem for problem in problems(QUICKSTART, *overrides))


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.errors import MissingConfigException

    from sft.config.diagnose import missing_extra

    error = MissingConfigException("…", missing_cfg_file="hydra/launcher/submitit_slurm")
    fix = "pip install 'sft-runner[submitit]'"
    assert str(missing_extra(error)) == f"hydra/launcher=submitit_slurm: is not installed; {fix}"
    assert missing_extra(MissingConfigException("…", missing_cfg_file="training/fsdp/x")) is None


def test_a_range_whose_end_a_sampler_would_take_and_a_grid_would_not_is_refused() -> None:
    assert [cfg.training.seed for cfg in check(sweep(QUICKSTART, "training.seed=range(1,3)"))] == [1, 2]
    assert problems(OPTUNA, "training.seed=range(1,3)") == [
        "training.seed=range(1,3): a sampler would take the end of a range, too; write choice(…) or int(interval(…))"
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("storage: sqlite:///o.db", "=sqlite:///o.db: would keep trials that the sweep's record does not have"),
        ("search_space: {training.seed: {type: int, low: 1, high: 2}}", "hydra.sweeper.params is for that"),
        ("max_failure_rate: 0.5", "=0.5: does nothing: a point that fails ends no sweep; leave it out"),
    ],
)
def test_what_a_sampler_would_do_beside_the_sweeps_record_is_refused(setting: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    shipped = f"hydra:\n  searchpath: ['file://{OPTUNA.path.parent}']\n"
    path.write_text(f"defaults: [quickstart_optuna, _self_]\n{shipped}  sweeper:\n    {setting}\n")
    with pytest.raises(ConfigError) as refused:
        read(Recipe(path), [], asked=True)
    assert said in str(refused.value)


def test_the_ends_of_an_interval_are_checked() -> None:
    found = problems(
        OPTUNA, "training.learning_rate=interval(-1e-3, 1e-2)", "training.effective_batch_size=choice(1,64)"
    )
    assert sorted(found) == [
        "training.effective_batch_size=1: must be at least the 2 processes "
        "(num_workers, procs_per_worker, gpus_per_worker), or some rank has nothing to do; try 2",
        "training.learning_rate=-0.001: must be at least 0 and at most 1000, or null",
    ]


def test_an_interval_of_a_whole_number_says_how_to_write_one() -> None:
    found = problems(OPTUNA, "training.warmup_steps=interval(0, 5)")
    assert found == ["training.warmup_steps=interval(0, 5): must be whole numbers; write int(interval(…))"]


def test_one_node_of_several_can_not_sample() -> None:
    nodes = [f"training.launcher.{one}" for one in ("num_workers=2", "node_rank=0", "rendezvous=a:1")]
    assert problems(OPTUNA, *nodes) == [
        "hydra/sweeper=optuna: only the first of several nodes has the scores that a sampler needs; sweep a grid"
    ]


@pytest.mark.parametrize(
    ("overrides", "until", "name"),
    [
        ([], None, "holdout.loss"),
        (["eval=none"], None, "train.loss"),
        (["dataset.train_split=1.0"], None, "train.loss"),
        ([], "train", "train.loss"),
        (["sweep.objective=arc_easy.acc", "eval.tasks=[arc_easy]"], None, "arc_easy.acc"),
        (
            ["sweep.objective=judge.win_rate", "eval.judge.address=http://localhost:1/v1", "eval.judge.model=m"],
            None,
            "judge.win_rate",
        ),
    ],
)
def test_the_objective_is_asked_for_or_a_loss(overrides: list[str], until: str | None, name: str) -> None:
    assert objective([compose(QUICKSTART, overrides)], until) == name


@pytest.mark.parametrize(
    ("overrides", "until", "said"),
    [
        (["sweep.objective=loss"], None, "sweep.objective=loss: must name a score: task.metric; try loss.acc"),
        (["sweep.objective=holdout.loss", "eval=none"], None, "nothing is scored; try train.loss"),
        (["sweep.objective=holdout.loss"], "train", "nothing is scored; try train.loss"),
        (["sweep.objective=holdout.chrf", "eval.holdout.generate=false"], None, "for loss, perplexity, token_accuracy"),
        (["sweep.objective=holdout.loss", "dataset.train_split=1.0"], None, "it is scored for nothing"),
        (["sweep.objective=judge.win_rate"], None, "only a judge that is asked gives a score, judge.win_rate"),
        (["sweep.objective=train.acc"], None, "the training has no such score; try train.loss"),
        (["sweep.objective=arc_easy.acc", "eval.tasks=[]"], None, "eval.tasks is empty; try eval.tasks=[arc_easy]"),
        (["sweep.objective=arc_easy.acc", "eval.tasks=[gsm8k]"], None, "eval.tasks does not score arc_easy"),
        (["sweep.objective=arc_easy.f1", "eval.tasks=[arc_easy]"], None, "it is scored for acc, acc_norm"),
    ],
)
def test_an_objective_that_is_never_made_is_refused(overrides: list[str], until: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objective([compose(QUICKSTART, overrides)], until)
    assert said in str(caught.value)


def test_every_point_must_have_the_objective_and_without_one_it_is_what_all_have() -> None:
    scored, unscored = compose(QUICKSTART, []), compose(QUICKSTART, ["eval=none"])
    assert objective([scored, scored], None) == "holdout.loss"
    assert objective([scored, unscored], None) == objective([unscored, scored], None) == "train.loss"
    named = [compose(QUICKSTART, ["sweep.objective=holdout.loss", *more]) for more in ([], ["eval=none"])]
    with pytest.raises(ConfigError, match=r"sweep.objective=holdout.loss: nothing is scored; try train.loss"):
        objective(named, None)


def test_what_somebody_said_of_the_direction_is_known() -> None:
    assert sweep(OPTUNA).direction == ""
    assert sweep(OPTUNA, "hydra.sweeper.direction=maximize").direction == "maximize"


def test_a_sampler_does_not_look_for_the_worst() -> None:
    cfg = compose(QUICKSTART, [])
    assert [direction_of(name, "", cfg) for name in ("holdout.loss", "arc_easy.acc")] == ["minimize", "maximize"]
    assert direction_of("mine.distance", "minimize", cfg) == "minimize"  # as its file may say
    for name, asked in (("holdout.loss", "maximize"), ("train.loss", "maximize"), ("judge.win_rate", "minimize")):
        with pytest.raises(ConfigError, match=rf"hydra.sweeper.direction={asked}: sweep.objective={name} is better"):
            direction_of(name, asked, cfg)
