"""What a plan says of a model before anything is fetched, and of a token budget that is too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.adapters.os import machine
from sft.artifacts import DatasetArtifact
from sft.config.schema import LauncherConfig, LauncherKind, ModelConfig, Precision, RunConfig, TrainingConfig
from sft.planning import estimate

CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "tie_word_embeddings": True,
}
COMMIT = "9213176726f574b556790deb65791e0c5aa438b6"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one model in it, as huggingface_hub lays it out."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    repo = tmp_path / "hub" / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "config.json").write_text(json.dumps(CONFIG))
    return repo


def lines(name: str = "org/name", revision: str | None = None, **training: int) -> list[str]:
    # One precision: which one is faster, and so what `auto` takes, is another on each CPU.
    settings = TrainingConfig(precision=Precision.fp32, **training)
    cfg = RunConfig(model=ModelConfig(name_or_path=name, revision=revision), training=settings)
    return list(estimate.memory_per_rank(cfg, {}))


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_in_the_hubs_cache_is_estimated_before_the_run(revision: str | None) -> None:
    assert "estimated peak per rank" in lines(revision=revision)[0]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("name", "revision"), [("org/other", None), ("org/name", "v2")])
def test_a_model_that_is_not_in_the_cache_is_not_guessed(name: str, revision: str | None) -> None:
    assert lines(name, revision) == ["memory     known once the model is here"]


@pytest.mark.usefixtures("cache")
def test_a_budget_that_fits_comes_with_the_length_that_fits_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "host_bytes", lambda: 26 * 2**30)
    [warning] = [line for line in lines(max_tokens_per_gpu=1_000_000) if line.startswith("warning")]
    budget = warning.split("max_tokens_per_gpu=")[1].split()[0]
    assert int(budget) < TrainingConfig().max_seq_len
    assert warning.endswith(f"try training.max_tokens_per_gpu={budget} training.max_seq_len={budget}")


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_a_plan_says_how_many_models_stay_and_what_they_take() -> None:
    saves, keeps = lines(num_epochs=20, checkpoint_limit=3)[-2:]
    each = float(saves.removeprefix("saves").split()[0])
    assert keeps.startswith("keeps      up to 3 models on the way besides the last, ")
    assert keeps.endswith(" GiB (the newest)")
    assert float(keeps.split(", ")[1].split()[0]) == pytest.approx(3 * each, abs=0.2)
    assert "up to 19 models" in lines(num_epochs=20)[-1]
    assert "training.checkpoint_limit=null" in lines(num_epochs=20)[-1]
    assert lines(num_epochs=1)[-1].startswith("saves")


def in_pods(**launcher: object) -> list[str]:
    pods = LauncherConfig(kind=LauncherKind.kubeflow, num_workers=4, **launcher)  # type: ignore[arg-type]
    cfg = RunConfig(model=ModelConfig(name_or_path="org/name"), training=TrainingConfig(launcher=pods))
    return list(estimate.memory_per_rank(cfg, {}))


@pytest.mark.usefixtures("cache")
def test_of_a_clusters_gpus_it_is_not_guessed_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    first, *strategies, saves = in_pods(gpus_per_worker=1)
    assert first.endswith("of a GPU of the cluster, whose memory is not known here:")
    assert len(strategies) == 4
    assert not any("fits" in line or "too much" in line for line in strategies)
    assert saves.startswith("saves")


@pytest.mark.usefixtures("cache")
def test_ranks_on_a_pods_cpus_share_its_memory() -> None:
    lines = in_pods(gpus_per_worker=0, procs_per_worker=2, memory="64Gi")
    assert lines[0].endswith("32.0 GiB of a pod for each of 2:")


def test_a_plan_says_where_a_trainjob_trains() -> None:
    pods = LauncherConfig(kind=LauncherKind.kubeflow, num_workers=4, gpus_per_worker=2, image="sft:1")
    told = list(estimate.place(RunConfig(training=TrainingConfig(launcher=pods))))
    assert told == ["trains     in a TrainJob: 4 pods x 2 GPUs, 128Gi of memory, sft:1, runtime torch-distributed"]
    assert list(estimate.place(RunConfig())) == []


@pytest.mark.parametrize(("tokens", "num_at_once", "fits"), [(1000, 1, True), (1000, 64, False), (10**7, 1, False)])
def test_what_a_point_lacks_is_said_with_what_would_fit(
    cache: Path, tokens: int, num_at_once: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(machine, "host_bytes", lambda: 64 << 30)
    cfg = RunConfig(
        model=ModelConfig(name_or_path="org/name"),
        training=TrainingConfig(precision=Precision.fp32, max_tokens_per_gpu=tokens),
    )
    lack = estimate.why_too_large(cfg, num_at_once)
    assert (lack is None) is fits
    assert fits or "GiB per rank by the estimate, there are" in str(lack)


def test_a_model_that_is_not_here_yet_lacks_nothing(cache: Path) -> None:
    assert estimate.why_too_large(RunConfig(model=ModelConfig(name_or_path="org/other"))) is None


def test_a_plan_says_that_there_are_few_steps_once_the_rows_are_known(tmp_path: Path) -> None:
    counts = {"num_rejected": 0, "num_duplicates": 0, "num_unused": 0, "source": "x", "source_version": ""}
    rows = DatasetArtifact(root=tmp_path, num_rows=40, num_train=40, num_eval=0, **counts)
    [note] = estimate.few_steps(RunConfig(), {"dataset": rows}, 1)
    assert note.startswith("only 1 optimizer step in all, of 40 samples")
    assert list(estimate.few_steps(RunConfig(), {}, 1)) == []
    many = DatasetArtifact(root=tmp_path, num_rows=4000, num_train=4000, num_eval=0, **counts)
    assert list(estimate.few_steps(RunConfig(), {"dataset": many}, 1)) == []


def test_a_plan_says_the_steps_of_a_fraction_and_of_max_steps(tmp_path: Path) -> None:
    counts = {"num_rejected": 0, "num_duplicates": 0, "num_unused": 0, "source": "x", "source_version": ""}
    rows = DatasetArtifact(root=tmp_path, num_rows=1000, num_train=1000, num_eval=0, **counts)
    for training, said in (
        (TrainingConfig(num_epochs=1.5), "steps      12 = 8 per epoch x 1.5 of 1000 samples"),
        (TrainingConfig(max_steps=20), "steps      20 = 8 per epoch for as many as that takes, of 1000 samples"),
    ):
        assert list(estimate.steps(RunConfig(training=training), {"dataset": rows})) == [said]
