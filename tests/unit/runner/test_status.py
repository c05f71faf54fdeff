"""What counts as done, and where a run lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft import record, runner
from sft.adapters.os import machine
from sft.artifacts import CheckpointArtifact, RegisteredModel
from sft.planning.plan import Plan, Step, build_plan
from sft.runner.status import since_when_asked
from sft.store import Store
from tests.support.configs import composed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.open()
    return made


@pytest.mark.parametrize("address", ["sqlite:///{}/mlflow.db", "http://registry.example"])
def test_a_registration_is_done_as_long_as_its_database_is_there(store: Store, tmp_path: Path, address: str) -> None:
    step = Step(name="register", stage="register")
    out = store.staging("register", step.key({}), resume=False)
    model = RegisteredModel(
        root=out, registry="mlflow", address=address.format(tmp_path), name="m", version="1", uri="file:///m"
    )
    (tmp_path / "mlflow.db").touch()
    store.publish(step.key({}), "register", model, settings={}, inputs={}, seconds=0)
    assert "register" in runner.find_done(Plan((step,)), store)
    (tmp_path / "mlflow.db").unlink()
    assert ("register" in runner.find_done(Plan((step,)), store)) is address.startswith("http")


def test_the_same_settings_have_the_same_folder_under_any_root() -> None:
    def name(*overrides: str) -> str:
        return runner.run_folder(composed(*overrides)).name

    assert name() == name("run_root=elsewhere") != name("training.seed=1")
    assert name("registry=kubeflow") == name("registry=kubeflow", "registry.uri=s3://models/m")
    assert name("name=mine").startswith("mine-")


@pytest.mark.parametrize(("setting", "is_found"), [("resources", True), ("seed", False)])
def test_a_run_goes_on_elsewhere_with_what_it_made_and_another_run_does_not(
    store: Store, setting: str, is_found: bool
) -> None:
    there = Step(name="train", stage="train", settings={"resources": {"device": "H200", "num_processes": 8}, "seed": 1})
    here = Step(name="train", stage="train", settings={**there.settings, setting: "other"})
    key = there.key({})
    out = store.staging("train", key, resume=False)
    made = CheckpointArtifact(root=out, num_steps=1, num_epochs=1, final_loss=0.5, world_size=8)
    store.publish(key, "train", made, settings=there.settings, inputs={}, seconds=0)
    previous = record.begin(run_id="r", recipe=Path("r"), command=[], config={}, gpus=[], resources={}, steps=["train"])
    previous.step("train").key = key
    assert ("train" in runner.find_done(Plan((here,)), store, previous)) is is_found
    assert "train" not in runner.find_done(Plan((here,)), store)


def test_what_a_sweep_looks_for_changes_no_folder() -> None:
    looking = composed("sweep.objective=train.loss", "sweep.skip_infeasible=false")
    assert runner.run_folder(looking) == runner.run_folder(composed())


@pytest.mark.parametrize(
    ("overrides", "is_same"),
    [
        (["training.fsdp=hybrid_shard"], True),  # on one machine
        (["training.fsdp.cpu_offload_params=true"], True),  # without a GPU
        (["training.launcher.procs_per_worker=1", "training.fsdp=no_shard"], False),
        (["training.fsdp=no_shard"], False),
        (["training.seed=7"], False),
        (["registry.model_name=other"], False),
        (["training.stall_timeout_seconds=9"], True),
        (["name=other"], True),
    ],
)
def test_work_is_the_same_where_no_step_would_make_anything_else(
    overrides: list[str], is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    assert (runner.work_digest(composed(*overrides)) == runner.work_digest(composed())) is is_same


def test_on_one_rank_all_strategies_are_one_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    alone = "training.launcher.procs_per_worker=1"
    strategies = ("full_shard", "shard_grad_op", "hybrid_shard", "no_shard")
    assert len({runner.work_digest(composed(alone, f"training.fsdp={name}")) for name in strategies}) == 1


def test_only_what_is_to_be_reached_counts_as_work() -> None:
    configs = [composed(f"eval.limit={limit}") for limit in (1, 2)]
    assert len({runner.work_digest(cfg) for cfg in configs}) == 2
    assert len({runner.work_digest(cfg, "train") for cfg in configs}) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("shared", "setting"),
    [
        ((), "eval.include_path"),
        (("eval.tasks=[]", "dataset.decontaminate=true"), "eval.include_path"),
        (("eval.backend=vllm",), "eval.vllm.python"),
    ],
)
def test_points_with_other_tasks_or_another_vllm_are_other_work(shared: tuple[str, ...], setting: str) -> None:
    digests = {runner.work_digest(composed(*shared, f"{setting}={path}")) for path in ("a", "b")}
    assert len(digests) == 2


@pytest.mark.parametrize(("status", "is_kept"), [("running", True), ("interrupted", True), ("done", False)])
def test_only_a_run_that_was_stopped_goes_on_with_what_a_server_has_answered(
    status: record.Status, is_kept: bool
) -> None:
    asked = ["eval.backend=local_chat_completions", "eval.model_args.base_url=http://localhost/v1"]
    cfg = composed(*asked, "eval.apply_chat_template=true", "dataset.uri=synthetic://spell_numbers")
    plain, world = (runner.read_environment(one) for one in (composed(), cfg))
    assert since_when_asked(plain, None) is plain
    first = since_when_asked(world, None)
    assert len({world.server_asked, first.server_asked, since_when_asked(world, None).server_asked}) == 3
    previous = record.begin(run_id="r", recipe=Path("r"), command=[], config={}, gpus=[], resources={}, steps=["e"])
    previous.status = status
    previous.step("e").settings = {"server_asked": first.server_asked}
    assert (since_when_asked(world, previous).server_asked == first.server_asked) is is_kept
    step = next(step for step in build_plan(cfg, first).steps if step.name == "evaluate:tuned")
    assert step.settings["server_asked"] == first.server_asked
    assert (
        "server_asked"
        not in next(step for step in build_plan(composed(), plain).steps if step.stage == "evaluate").settings
    )
