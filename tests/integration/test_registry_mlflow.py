"""The registry stage against real MLflow: a SQLite store, and a tracking server."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sft.adapters.registry import DIGEST_KEY
from sft.artifacts import RegisteredModel, UploadedModel
from sft.config.schema import RegistryConfig, RegistryKind
from sft.errors import StageError
from sft.scores import Verdict
from sft.scratch import scratch
from sft.stages.register import RegisterInputs
from sft.stages.registries import registry_of
from tests.servers.mlflow import tracking_server
from tests.support.command import sft_in_process
from tests.support.register_inputs import register_inputs, report, run_stage, sha, written

if TYPE_CHECKING:
    from playwright.sync_api import Page

# MLflow 3.17.2 asks SQLAlchemy 2.1 for something it deprecates; only seen where a test reads the store itself.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Speller = tuple[RegisterInputs, RegisteredModel, Path]


def mlflow(**changes: Any) -> RegistryConfig:
    settings = {"author": "ada", "description": "spells numbers", "model_name": "speller", "model_version": "2.1"}
    return RegistryConfig(kind=RegistryKind.mlflow, **(settings | changes))


def client(inputs: RegisterInputs, address: str = "") -> Any:
    from mlflow import MlflowClient

    address = address or f"sqlite:///{inputs.mlflow_database}"
    return MlflowClient(address, address)


def is_registered(inputs: RegisterInputs, model: RegisteredModel, address: str = "") -> bool:
    registry = registry_of(mlflow(address=address), database=inputs.mlflow_database)
    assert registry is not None
    with scratch("has") as logs:
        return registry.has(model, logs)


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speller]:
    """One model registered in a fresh SQLite store, called from an empty folder.

    Someone was killed while the store was created: MLflow itself could never go on.
    """
    root = tmp_path_factory.mktemp("mlflow")
    (root / "cwd").mkdir()
    inputs = register_inputs(root / "runs")
    with closing(sqlite3.connect(inputs.mlflow_database.with_name("mlflow.db.new"))) as torn:
        torn.execute("create table evaluation_datasets (dataset_id)")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "cwd")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield inputs, run_stage(mlflow(), inputs, root / "out")[0], root


@pytest.mark.long
def test_mlflow_version_has_source_tags_and_alias(speller: Speller) -> None:
    inputs, registered, _ = speller
    version = client(inputs).get_model_version_by_alias("speller", "candidate")
    assert str(version.version) == registered.version == "1"
    assert version.source == inputs.package.model_dir.as_uri() == registered.uri
    assert version.description == "spells numbers"
    expected = {
        "base_model.source": "Qwen/Qwen2.5-1.5B-Instruct",
        "base_model.revision": "989aa79",
        "dataset.source": "s3://bucket/chat.jsonl",
        "dataset.digest": sha("dataset"),
        "dataset.num_train": "80",
        "training.learning_rate": "5e-06",
        "base.arc.acc": "0.25",
        "tuned.arc.acc": "0.5",
        "tuned.arc.acc_stderr": "0.125",
        "checkpoint.digest": sha("weights"),
        "version": "2.1",
        "author": "ada",
        "git_commit": "0123abc",
        "run_id": "run-1",
        "versions.torch": "2.13.0",
    }
    assert expected.items() <= version.tags.items()
    assert registered.metadata["dataset.num_train"] == 80


def test_mlflow_run_has_parameters_the_curve_and_the_scores(speller: Speller) -> None:
    inputs, _, _ = speller
    store = client(inputs)
    run = store.get_run(store.get_model_version("speller", "1").run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.learning_rate"] == "5e-06"
    assert [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 4.0),
        (2, 2.0),
        (4, 1.0),
    ]
    assert "train/device" not in run.data.metrics
    assert (run.data.metrics["base.holdout.acc"], run.data.metrics["tuned.holdout.acc"]) == (0.0, 0.9375)


def test_mlflow_keeps_the_record_and_the_reports_but_no_weights(speller: Speller) -> None:
    inputs, _, root = speller
    kept = {p.name: p.read_bytes() for p in inputs.mlflow_artifacts.rglob("*") if p.is_file()}
    assert kept["run.json"] == inputs.run_record.read_bytes()
    assert sorted(kept) == ["comparison.json", "report.json", "run.json"]
    assert list((root / "cwd").iterdir()) == []
    assert (root / "out" / "logs" / "mlflow" / "log.txt").read_text() == ""


def test_mlflow_finds_a_registered_checkpoint_again_and_updates_its_scores(speller: Speller) -> None:
    inputs, _, root = speller
    rescored = register_inputs(root / "runs", report=report(root / "rescored", 0.5, 1.0), run_id="run-2")
    again, note = run_stage(mlflow(), rescored, root / "again")
    assert again.version == "1"
    assert "version 1 is the same checkpoint already; its scores were updated" in note
    assert "its tags were of run-1 and are of this run now" in note
    [version] = client(inputs).search_model_versions("name = 'speller'")
    assert (version.tags["tuned.holdout.acc"], version.tags["run_id"]) == ("1.0", "run-2")


@pytest.mark.long
def test_facts_that_a_later_run_of_the_checkpoint_does_not_tell_are_gone_and_others_stay(tmp_path: Path) -> None:
    first = register_inputs(tmp_path / "runs")
    run_stage(mlflow(license="mit"), first, tmp_path / "first")
    client(first).set_model_version_tag("speller", "1", "approved", "by ada")
    unscored = replace(first, run_id="run-2", baseline=None, report=None, comparison=None, gates=None)
    made, note = run_stage(mlflow(license="mit"), unscored, tmp_path / "second")
    tags = client(first).get_model_version("speller", "1").tags
    assert (tags["run_id"], tags["license"], tags["approved"]) == ("run-2", "mit", "by ada")
    gone = ("base.", "tuned.", "verdict.", "gates")
    assert [name for name in {*tags, *made.metadata} if name.startswith(gone)] == []
    assert "; what this run does not tell was taken out: base.arc.acc" in note


def test_mlflows_store_is_whole_wherever_its_creation_was_killed(speller: Speller) -> None:
    inputs, _, _ = speller
    assert sorted(file.name for file in inputs.mlflow_database.parent.glob("mlflow.db*")) == [
        "mlflow.db",
        "mlflow.db.lock",
    ]


@pytest.mark.long
def test_the_alias_never_moves_to_a_model_that_is_worse_than_its_base(tmp_path: Path) -> None:
    good = register_inputs(tmp_path / "runs")
    run_stage(mlflow(), good, tmp_path / "good")
    assert good.comparison is not None
    arc, holdout = good.comparison.changes
    worse = replace(good.comparison, changes=(replace(arc, verdict=Verdict.worse), holdout))
    bad = replace(register_inputs(tmp_path / "runs", weights="others"), comparison=worse)
    made, note = run_stage(mlflow(), bad, tmp_path / "bad")
    assert made.version == "2"
    assert "the alias candidate does not move to it: worse than its base model on arc.acc" in note
    assert str(client(good).get_model_version_by_alias("speller", "candidate").version) == "1"


@pytest.mark.long
def test_a_version_found_again_gets_its_new_description_and_a_worse_one_under_the_alias_is_said(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path / "runs")
    run_stage(mlflow(), inputs, tmp_path / "first")
    _, note = run_stage(mlflow(description="spells words"), inputs, tmp_path / "second")
    assert note.endswith("version 1 is the same checkpoint already; its description was updated")
    assert client(inputs).get_model_version("speller", "1").description == "spells words"
    _, note = run_stage(mlflow(description=""), inputs, tmp_path / "third")
    assert "description" not in note
    assert inputs.comparison is not None
    arc, holdout = inputs.comparison.changes
    worse = replace(inputs.comparison, changes=(replace(arc, verdict=Verdict.worse), holdout))
    rescored = register_inputs(tmp_path / "runs", report=report(tmp_path / "rescored", 0.5, 1.0))
    _, note = run_stage(mlflow(), replace(rescored, comparison=worse), tmp_path / "fourth")
    assert "the alias candidate points at it, although it is worse than its base model on arc.acc" in note
    assert str(client(inputs).get_model_version_by_alias("speller", "candidate").version) == "1"
    client(inputs).delete_registered_model_alias("speller", "candidate")
    run_stage(mlflow(), inputs, tmp_path / "fifth")
    assert str(client(inputs).get_model_version_by_alias("speller", "candidate").version) == "1"


def test_mlflow_registration_that_was_killed_before_its_alias_is_completed(speller: Speller) -> None:
    inputs, _, root = speller
    store = client(inputs)
    version = store.get_model_version("speller", "1")
    store.delete_registered_model_alias("speller", "candidate")
    store.update_run(version.run_id, status="RUNNING")
    _, note = run_stage(mlflow(), inputs, root / "completed")
    assert "version 1 is the same checkpoint already" in note
    assert note.endswith(", alias candidate")
    assert str(store.get_model_version_by_alias("speller", "candidate").version) == "1"
    assert store.get_run(version.run_id).info.status == "FINISHED"


@pytest.mark.long
def test_mlflow_run_of_a_killed_registration_does_not_go_on_for_ever(speller: Speller) -> None:
    inputs, _, root = speller
    store, other = client(inputs), register_inputs(root / "runs", weights="killed", run_id="run-3")
    experiment = store.create_experiment("killed")
    left = store.create_run(experiment, tags={"sft.run_id": "run-3"}).info.run_id
    run_stage(mlflow(model_name="killed"), other, root / "killed")
    assert store.get_run(left).info.status == "KILLED"


@pytest.mark.long
@pytest.mark.slow
def test_mlflow_registrations_at_once_make_one_store_and_a_version_per_checkpoint(tmp_path: Path) -> None:
    runs = {name: register_inputs(tmp_path, weights=name[0]) for name in ("a1", "a2", "b")}
    start = threading.Barrier(len(runs))

    def one(name: str) -> str:
        start.wait()
        return run_stage(mlflow(), runs[name], tmp_path / name)[0].version

    with ThreadPoolExecutor(len(runs)) as pool:
        versions = dict(zip(runs, pool.map(one, runs), strict=True))
    assert versions["a1"] == versions["a2"] != versions["b"]
    assert sorted({versions["a1"], versions["b"]}) == ["1", "2"]


@pytest.mark.exhaustive
def test_mlflow_is_told_where_the_model_was_uploaded_to_also_later(speller: Speller) -> None:
    inputs, _, root = speller
    places = {"s3": "s3://bucket/models/0123", "oci": "oci://host/org/speller@sha256:00", "hf": "hf://org/speller@00"}
    for weights, place in places.items():
        uploaded = UploadedModel(root=root, uri=place, num_files=1, num_bytes=1)
        placed = register_inputs(root / "runs", weights=weights, uploaded=uploaded)
        registered, _ = run_stage(mlflow(model_name="placed"), placed, root / weights)
        version = client(inputs).get_model_version("placed", registered.version)
        assert (registered.uri, version.source, version.tags["uri"]) == (place, place, place)
    _, note = run_stage(mlflow(model_name="placed"), replace(placed, uploaded=None), root / "moved")
    here = placed.package.model_dir.as_uri()
    assert note.endswith(f"already; its tag uri is now {here}")
    assert client(inputs).get_model_version("placed", registered.version).tags["uri"] == here


def test_mlflow_refuses_a_bad_model_name_in_its_own_words(speller: Speller) -> None:
    inputs, _, root = speller
    other = register_inputs(root / "runs", weights="other")
    with pytest.raises(StageError, match="Names cannot contain") as refused:
        run_stage(mlflow(model_name="a/b"), other, root / "refused")
    assert "registry.model_name" in str(refused.value)
    assert client(inputs).get_experiment_by_name("a/b") is None


@pytest.mark.long
@pytest.mark.slow
def test_mlflow_server_gets_the_run_as_source_and_the_files_address_as_tag(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path)
    with tracking_server(tmp_path / "server") as address:
        registered, _ = run_stage(mlflow(address=address), inputs, tmp_path / "out")
        again, note = run_stage(mlflow(address=address), inputs, tmp_path / "again")
        store = client(inputs, address)
        version = store.get_model_version("speller", registered.version)
        artifacts = [file.path for file in store.list_artifacts(version.run_id)]
        kept = is_registered(inputs, registered, address)
        store.delete_model_version("speller", registered.version)
        lost = is_registered(inputs, registered, address)
    assert (kept, lost) == (True, False)
    assert version.source == f"runs:/{version.run_id}"
    assert version.tags["uri"] == inputs.package.model_dir.as_uri()
    assert sorted(artifacts) == ["base", "comparison.json", "run.json", "tuned"]
    assert (again.version, "already" in note) == (registered.version, True)
    assert (tmp_path / "out" / "logs" / "mlflow" / "log.txt").read_text() == ""


@pytest.mark.long
def test_mlflow_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    away = "http://ada:canary-password@127.0.0.1:9"
    with pytest.raises(StageError, match="MLflow at http") as failed:
        run_stage(mlflow(address=away), register_inputs(tmp_path), tmp_path / "out")
    assert "canary" not in str(failed.value) + written(tmp_path / "out")


def test_a_database_that_is_not_there_is_named_and_not_made_by_asking(tmp_path: Path) -> None:
    address = f"registry.address=sqlite:///{tmp_path}/typo/mlflow.db"
    answer = sft_in_process("models", "registry=mlflow", address, cwd=tmp_path)
    assert answer.status == 1
    assert answer.err.startswith(f"error: {tmp_path}/typo/mlflow.db: there is no such database")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_what_mlflow_has_lost_is_known(tmp_path: Path) -> None:
    inputs = register_inputs(tmp_path)
    model, _ = run_stage(mlflow(), inputs, tmp_path / "out")
    other = replace(model, metadata={**model.metadata, DIGEST_KEY: sha("another checkpoint")})
    assert is_registered(inputs, model)
    assert not is_registered(inputs, other)
    assert not is_registered(inputs, replace(model, name="spe_ler"))

    client(inputs).delete_model_version("speller", model.version)
    assert not is_registered(inputs, model)
    inputs.mlflow_database.write_text("no database")
    with pytest.raises(StageError, match=r"MLflow's .*mlflow.db can't be read: file is not a database"):
        is_registered(inputs, model)
    inputs.mlflow_database.unlink()
    assert not is_registered(inputs, model)
    assert not inputs.mlflow_database.exists()


@pytest.mark.exhaustive
def test_mlflows_page_shows_the_version_and_its_digest(tmp_path: Path, browser: Page) -> None:
    inputs = register_inputs(tmp_path)
    with tracking_server(tmp_path / "server") as address:
        registered, _ = run_stage(mlflow(address=address), inputs, tmp_path / "out")
        browser.goto(f"{address}/#/models/speller/versions/{registered.version}")
        browser.get_by_text(inputs.checkpoint.digest).first.wait_for()
        page = browser.locator("body").inner_text()
    assert "speller" in page
    assert f"Version {registered.version}" in page
